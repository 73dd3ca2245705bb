"""The pocket world: pictures, captions and tiny models that need no download.

Everything the library does with Stable Diffusion 3 it can do here in minutes on two CPU cores, with
the same classes: a whole `StableDiffusion3Pipeline`, a `Dinov2Model`, a `CLIPModel` as PickScore.
The base policy draws dull pictures; the reference images are crisp drawings of the same captions.
"""
