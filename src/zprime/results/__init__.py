"""What is measured, as values: plain dataclasses that are saved as JSON and read again without a model."""
