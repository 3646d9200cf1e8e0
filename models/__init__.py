"""CNNs and every factor they are trained under: architectures, data, optimizers, schedules, runs."""
