"""What the transformer is given beside the noise: the two inpaint streams and sizes that it was trained on."""

from .buckets import closest_size
from .clip_blend import blend_embeds
from .clip_image import clip_image
from .inpaint import encode_inpaint, mask_and_masked_video

__all__ = ["blend_embeds", "clip_image", "closest_size", "encode_inpaint", "mask_and_masked_video"]
