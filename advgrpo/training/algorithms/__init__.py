"""RL algorithms, one file each; the loop and the optimizer are shared."""
