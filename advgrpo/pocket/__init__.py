"""The pocket world: pictures, captions and tiny models that need no download.

The models are of the classes that full-size runs load: a text-to-image pipeline, a DINOv2 backbone
and a CLIP as PickScore. A whole run takes minutes on two CPU cores. The base policy draws dull
pictures; the reference images are crisp drawings of the same captions.
"""
