"""Videos of any length, straight to disk."""

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..easyanimate_core.continuation import MAX_SEGMENTS, JoinSettings
from ..easyanimate_core.host.continuation import SegmentRenderer, plan_continuation
from ..easyanimate_core.host.fingerprint import upstream_values
from ..easyanimate_core.host.inputs import require_conditioning
from ..easyanimate_core.host.long_video import LongVideoJob, begin_new, resume_unfinished
from .messages import show_in_node, show_progress
from .places import check_prefix, save_place
from .segments import segment_inputs
from .video import graph_metadata, saving_inputs

RESUME, START_NEW = "resume", "start new"
# What these come from is compared by its settings; images are compared by their pixels.
MODEL_INPUTS = ["model", "clip", "vae", "clip_vision", "negative"]


class EasyAnimateV3LongVideo(io.ComfyNode):
    """Make a video of any length in constant memory, and go on after a crash or a cancel."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        required, optional = segment_inputs(MAX_SEGMENTS)
        return io.Schema(
            node_id="EasyAnimateV3LongVideo",
            display_name="EasyAnimateV3 Long Video",
            category="EasyAnimateV3/video",
            description="Extend Video straight to disk: every finished segment is kept in a folder beside the mp4, memory "
            "does not grow, and after a crash or a cancel the same graph goes on with the first unfinished segment.",
            inputs=[
                *required,
                *saving_inputs("video/EasyAnimateV3_long"),
                io.Combo.Input(
                    "if_unfinished",
                    options=[RESUME, START_NEW],
                    default=RESUME,
                    tooltip="Where a video of this filename_prefix was stopped: resume finishes it, and refuses if what is "
                    "finished was made with other inputs; start new leaves it alone and begins another file. A prefix with a "
                    "date finds those of the same date only.",
                ),
                *optional,
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The finished file.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse a prefix that cannot be used before anything is sampled; None is one that another node gives."""
        return check_prefix(filename_prefix)

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
        filename_prefix: str,
        fps: float,
        crf: int,
        if_unfinished: str,
        seeds: str = "",
        clip_vision: io.ClipVision.Type | None = None,
        video: io.Image.Type | None = None,
        start_image: io.Image.Type | None = None,
        end_image: io.Image.Type | None = None,
    ) -> io.NodeOutput:
        """Make what is missing of the video."""
        require_conditioning(negative, "negative")
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
        renderer = SegmentRenderer(
            model,
            clip,
            vae,
            clip_vision,
            negative,
            plan.width,
            plan.height,
            steps,
            cfg,
            sampler_name,
            clip_apply_ratio,
            smoothing,
        )
        joining = JoinSettings(overlap_mix, drift_control, drift_strength, drift_scope)
        job = LongVideoJob(plan, overlap, renderer, joining, video, start_image, end_image)

        place = save_place(filename_prefix, plan.width, plan.height)
        models = upstream_values(cls.hidden.dynprompt, cls.hidden.unique_id, MODEL_INPUTS)
        inputs = {**models, **job.inputs(), "fps": fps, "crf": crf}
        metadata = graph_metadata(cls.hidden)
        show_progress(cls, "\n".join(plan.notes(vae)))
        target = None
        if if_unfinished == RESUME:
            target = resume_unfinished(place.folder, place.name, inputs, job.parts)
        if target is None:
            # Asked for now, since folders that a crash left empty are gone and their numbers free.
            place = save_place(filename_prefix, plan.width, plan.height)
            target = begin_new(place.files(), inputs, fps, crf)

        path, lost = job.write(target, metadata, lambda text: show_progress(cls, text))
        show_progress(cls, f"Finished: {plan.frames} frames")
        shown: dict[str, Any] = ui.PreviewVideo(
            [ui.SavedResult(path.name, place.subfolder, io.FolderType.output)]
        ).as_dict()
        notes = show_in_node(cls, *plan.notes(vae), *lost) or {}
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui={**shown, **notes})


NODES = [EasyAnimateV3LongVideo]
