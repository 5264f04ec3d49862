"""Readers: a model file or an nn.Module becomes a `Source` that capture can export."""
