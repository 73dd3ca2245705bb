"""Run a task as a distributed job on Kubernetes. Loads neither torch nor kfp."""
