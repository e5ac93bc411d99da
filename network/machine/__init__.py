"""The machine that networks compute on: device, precision, memory, and what control groups leave of it."""
