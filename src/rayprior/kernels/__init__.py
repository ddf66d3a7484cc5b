"""The few hot loops. Each file: a plain PyTorch reference, its fast twin, the function that chooses by device."""
