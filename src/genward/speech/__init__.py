"""Speech services: voices, the service with its taps, and simulated aligned models around the same voice."""
