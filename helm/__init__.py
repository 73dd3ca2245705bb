"""The chart, and programs that generate, check and package it."""
