"""`published_model`: the released model and its card on the Hub. Only in lines whose recipe names a repository."""

import os

import dagster as dg

from assets.line import Line
from forge_pipeline import deploy
from forge_pipeline.annex_iv import AnnexIvBundle
from forge_pipeline.config import ForgeConfig
from forge_pipeline.deploy.hub_push import Pushed, push_to_hub
from forge_pipeline.errors import GateFailedError
from forge_pipeline.models import ModelDirectory
from forge_pipeline.models.hub import hub_token
from forge_pipeline.registry import Registry
from forge_pipeline.release import ReleaseRecord
from resources.evidence import AuditLogResource, RegistryResource


def build_published_model(line: Line) -> dg.AssetsDefinition:
    @line.stage(io_manager="report_io", kinds={"huggingface"}, sections=("release",), code=[deploy])
    def published_model(
        context: dg.AssetExecutionContext,
        recipe: ForgeConfig,
        fine_tuned_model: ModelDirectory,
        annex_iv_bundle: AnnexIvBundle,
        released_model: ReleaseRecord,
        registry: RegistryResource,
        audit_log: AuditLogResource,
    ) -> Pushed:
        """One commit on the Hub: the released model's files, and the model card of its bundle.

        Art. 13(1): the card says what the model is for, how it was tested and where its limits are. What was not
        released is refused, also where this asset is launched alone.
        """
        done = publish(recipe, fine_tuned_model, annex_iv_bundle, released_model, registry.registry)
        audit_log.log(
            line.name, context.run_id, "model.pushed",
            subject=done.digest, repository=done.repo_id, hub_commit=done.commit,
        )  # fmt: skip
        return done

    return published_model


def publish(
    recipe: ForgeConfig, model: ModelDirectory, bundle: AnnexIvBundle, released: ReleaseRecord, registry: Registry
) -> Pushed:
    """Push exactly what was released, with the card that its release was decided on.

    Raises:
        GateFailedError: Model or bundle are others than the released ones, or the release was taken back.
    """
    for what, now, then in (("model", model, released.subject), ("bundle", bundle, released.bundle)):
        if now.digest != then:
            raise GateFailedError(
                f"publication refused: the line's {what} is {now.digest}, but {then} was released; release the new "
                "one, or materialize the released one again"
            )
    assert recipe.release.push_to is not None, "the line has this stage only then"
    return push_to_hub(
        model,
        recipe.release.push_to,
        card=bundle.path / "model_card.md",
        registry=registry,
        token=hub_token(recipe),
        private=not recipe.release.push_public,
        endpoint=os.environ.get("HF_ENDPOINT"),
    )
