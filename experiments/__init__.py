"""One script per question; each has a frozen dataclass as configuration and runs by itself."""
