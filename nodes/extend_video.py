"""Segments added to a video by node expansion."""

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..easyanimate_core.continuation import Segment
from ..easyanimate_core.host.continuation import ContinuationPlan, plan_continuation
from .messages import show_in_node
from .segments import segment_inputs

# Every segment of a node expansion stays in the host's cache, and the host walks back through all of them.
MAX_EXPANDED_SEGMENTS = 64


class EasyAnimateV3ExtendVideo(io.ComfyNode):
    """Add segments to a video; each is a sub-graph of the single-clip nodes, cached on its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        required, optional = segment_inputs(MAX_EXPANDED_SEGMENTS)
        return io.Schema(
            node_id="EasyAnimateV3ExtendVideo",
            display_name="EasyAnimateV3 Extend Video",
            category="EasyAnimateV3/video",
            description="Continues a video, or a start image, by segments that each go on from the last frames before "
            "them. Finished segments are kept: after a change only what comes later runs again.",
            inputs=[*required, *optional],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The given video and all that was added.")
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )

    @classmethod
    def execute(
        cls,
        model: io.Model.Type,
        clip: io.Clip.Type,
        vae: io.Vae.Type,
        negative: io.Conditioning.Type,
        prompts: str,
        width: int,
        height: int,
        partial_length: int,
        overlap: int,
        segments: int,
        total_length: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        clip_apply_ratio: float,
        overlap_mix: str,
        drift_control: str,
        drift_strength: float,
        drift_scope: str,
        smoothing: bool,
        seeds: str = "",
        clip_vision: io.ClipVision.Type | None = None,
        video: io.Image.Type | None = None,
        start_image: io.Image.Type | None = None,
        end_image: io.Image.Type | None = None,
    ) -> io.NodeOutput:
        """Expand into one sub-graph a segment."""
        plan = plan_continuation(
            model,
            vae,
            prompts=prompts,
            width=width,
            height=height,
            partial_length=partial_length,
            overlap=overlap,
            segments=segments,
            total_length=total_length,
            seed=seed,
            seeds=seeds,
            video=video,
            start_image=start_image,
            end_image=end_image,
        )
        if len(plan.segments) > MAX_EXPANDED_SEGMENTS:
            raise ValueError(
                f"total_length {total_length} takes {len(plan.segments)} segments, and this node keeps at most "
                f"{MAX_EXPANDED_SEGMENTS} in memory: make it shorter, or use EasyAnimateV3LongVideo, which writes to disk."
            )
        connected = {
            "clip_vision": clip_vision,
            "video": video,
            "start_image": start_image,
            "end_image": end_image,
        }
        inputs = cls.hidden.dynprompt.get_node(cls.hidden.unique_id)["inputs"]
        # The sub-graph takes the links and not the objects, which the host could not recognise in its cache.
        links = {name: inputs[name] for name in ("model", "clip", "vae", "negative")}
        links |= {name: inputs[name] for name, value in connected.items() if value is not None}
        sampling = {
            "steps": steps,
            "cfg": cfg,
            "sampler_name": sampler_name,
            "denoise": 1.0,
            "clip_apply_ratio": clip_apply_ratio,
        }
        joining = {
            "overlap_mix": overlap_mix,
            "drift_control": drift_control,
            "drift_strength": drift_strength,
            "drift_scope": drift_scope,
        }
        graph = _Expansion(plan, links, overlap, sampling, joining, smoothing)
        images = graph.build()
        return io.NodeOutput(images, expand=graph.finalize(), ui=show_in_node(cls, *plan.notes(vae)))


class _Expansion:
    """The sub-graph of EasyAnimateV3ExtendVideo.

    Node ids do not depend on the number of segments, so that the host finds its cached results again when it changes.
    """

    def __init__(
        self,
        plan: ContinuationPlan,
        links: dict[str, list],
        overlap: int,
        sampling: dict[str, Any],
        joining: dict[str, Any],
        smoothing: bool,
    ) -> None:
        self.plan = plan
        self.links = links
        self.overlap = overlap
        self.sampling = sampling
        self.joining = joining
        self.smoothing = smoothing
        self.graph = GraphBuilder()
        self.finalize = self.graph.finalize

    def build(self) -> list:
        """Add all nodes and return the link of the joined frames."""
        given = self._given()
        texts: dict[str, list] = {}
        parts = {}
        for segment, prompt, seed in zip(self.plan.segments, self.plan.prompts, self.plan.seeds, strict=True):
            name = f"{segment.index:04}"
            if prompt not in texts:
                texts[prompt] = self.graph.node(
                    "EasyAnimateV3TextEncode",
                    f"text_{name}",
                    clip=self.links["clip"],
                    text=prompt,
                    clean=True,
                ).out(0)
            frames = self._segment(name, segment, texts[prompt], seed, given)
            if segment.overlap:
                frames = self.graph.node(
                    "EasyAnimateV3BlendOverlap", f"blend_{name}", previous=given, next=frames, **self.joining
                ).out(0)
            parts[f"segment_{name}"] = frames
            if not segment.last:
                given = self._tail(f"tail_{name}", frames, segment.length)
        if "video" in self.links:
            parts["video"] = self.links["video"]
        return self.graph.node("EasyAnimateV3JoinSegments", "join", overlap=self.overlap, **parts).out(0)

    def _given(self) -> list | None:
        """Return the link of the frames that the first segment starts from."""
        if "video" in self.links:
            return self._tail("tail_video", self.links["video"], self.plan.video_frames)
        if "start_image" not in self.links:
            return None
        size = {"width": self.plan.width, "height": self.plan.height}
        return self.graph.node("EasyAnimateV3FitImage", "start", image=self.links["start_image"], **size).out(
            0
        )

    def _tail(self, name: str, frames: list, length: int) -> list:
        return self.graph.node(
            "ImageFromBatch", name, image=frames, batch_index=length - self.overlap, length=self.overlap
        ).out(0)

    def _segment(self, name: str, segment: Segment, positive: list, seed: int, given: list | None) -> list:
        """Add the nodes of one clip and return the link of its decoded frames."""
        images = {}
        if given is not None:
            images["start_image"] = given
            if "clip_vision" in self.links:
                images["clip_vision_output"] = self.graph.node(
                    "EasyAnimateV3ImageEncode",
                    f"image_{name}",
                    clip_vision=self.links["clip_vision"],
                    image=given,
                ).out(0)
        if segment.last and "end_image" in self.links:
            images["end_image"] = self.links["end_image"]
        clip = self.graph.node(
            "EasyAnimateV3ImageToVideo",
            f"clip_{name}",
            positive=positive,
            negative=self.links["negative"],
            vae=self.links["vae"],
            width=self.plan.width,
            height=self.plan.height,
            length=segment.length,
            batch_size=1,
            **images,
        )
        sampled = self.graph.node(
            "EasyAnimateV3Sampler",
            f"sampler_{name}",
            model=self.links["model"],
            positive=clip.out(0),
            negative=clip.out(1),
            latent_image=clip.out(2),
            seed=seed,
            **self.sampling,
        )
        return self.graph.node(
            "EasyAnimateV3VAEDecode",
            f"decode_{name}",
            samples=sampled.out(0),
            vae=self.links["vae"],
            smoothing=self.smoothing,
            tiling=True,
        ).out(0)


NODES = [EasyAnimateV3ExtendVideo]
