"""What all tests need: pytester, and Triton's interpreter where there is no GPU."""

import os

import torch

pytest_plugins = ["pytester"]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
