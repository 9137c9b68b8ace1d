"""Settings of the byte model's tests."""

import torch

# Models this small gain nothing from more threads, and sums stay the same on every machine.
torch.set_num_threads(1)
