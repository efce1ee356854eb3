"""From labelled images or text to a measured, monitored service."""

__version__ = "0.1.0"
