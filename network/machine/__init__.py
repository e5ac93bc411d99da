"""The machine that networks run on: device, precision, memory and cores."""
