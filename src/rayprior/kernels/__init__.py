"""The few hot loops. Each file: one plain PyTorch reference, its fast twins, and the function that chooses by device."""
