from tests.serving.made_bundles import bundle, multi_label_bundle, tags_bundle, text_bundle, tokenizer

__all__ = ["bundle", "multi_label_bundle", "tags_bundle", "text_bundle", "tokenizer"]
