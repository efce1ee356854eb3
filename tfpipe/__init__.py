"""From labelled images or text to a measured, monitored service."""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later tell Microsoft which models they open, unless this is set before they are imported. Many
# modules import them, so it stands here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
