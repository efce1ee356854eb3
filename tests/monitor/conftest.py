from tests.serving.made_bundles import bundle

__all__ = ["bundle"]
