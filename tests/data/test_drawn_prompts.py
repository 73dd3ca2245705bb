from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.data.drawn_prompts import count_drawn, drawn_prompts
from advgrpo.data.prompts import read_run_prompts
from advgrpo.data.splits import split_prompts
from advgrpo.records import ReferenceImageSet
from advgrpo.tasks.embeddings import pretraining_prompts, training_prompts

FEW = ("training.updates=4", "discriminator.pretraining.images=20")


def test_a_run_draws_what_its_tasks_draw_and_little_else() -> None:
    run = resolve("pocket", FEW)
    prompts = read_run_prompts(run.prompts).train
    training, pretraining = TrainingSettings.of(run), PretrainingSettings.of(run)
    of_run, of_training, of_pretraining = (
        set(drawn_prompts(prompts, draws).texts)
        for draws in (ReferenceImagesSettings.of(run).draws, training.draws, pretraining.draws)
    )
    held_out = {prompts.texts[i] for i in split_prompts(prompts.texts, 0.1).held_out}
    assert of_run == of_training | of_pretraining
    assert held_out < of_pretraining & of_training
    assert len(of_training - held_out) == 4 * 8
    assert len(of_pretraining - held_out) == 20
    # The embeddings are of these prompts, too; the first is the unconditional one.
    assert set(training_prompts(training, prompts)[1:]) <= of_training
    images = ReferenceImageSet("", dict.fromkeys(prompts.texts, ("a.png",)), 32, "")
    assert set(pretraining_prompts(pretraining, prompts, images)[1:]) <= of_pretraining


def test_a_longer_run_draws_the_prompts_of_a_shorter_one() -> None:
    prompts = read_run_prompts(resolve("pocket").prompts).train
    short, long, unknown = (
        TrainingSettings.of(resolve("pocket", overrides)).draws
        for overrides in (
            ["training.updates=4"],
            ["training.updates=9"],
            ["training.update_schedule={type: when_outscored, pause_policy: true}"],
        )
    )
    few, more, all_of_them = (drawn_prompts(prompts, d) for d in (short, long, unknown))
    assert set(few.texts) < set(more.texts)
    assert all_of_them == prompts
    assert list(few.texts) == [text for text in prompts.texts if text in set(few.texts)]


def test_skipped_rollouts_have_prompts_that_do_not_count_for_the_identity_of_a_run() -> None:
    stopping, skipping = (
        TrainingSettings.of(
            resolve("pocket", ["training.updates=30", f"training.non_finite.action={action}"])
        )
        for action in ("stop", "skip")
    )
    assert stopping.certain_draws == skipping.certain_draws == stopping.draws
    assert skipping.draws.rollouts == 33


def test_the_number_of_drawn_prompts_follows_from_the_number_of_all() -> None:
    draws = ReferenceImagesSettings.of(resolve("sd35m_dino", needed=())).draws
    assert draws is not None
    # 182 updates of 48 prompts, 2,543 held-out ones, and those of the base images besides.
    assert 8736 + 2543 < count_drawn(25_432, draws) < 8736 + 2543 + 512
    assert count_drawn(100, draws.model_copy(update={"prompts_per_update": 5})) == 100
    prompts = read_run_prompts(resolve("pocket").prompts).train
    few = ReferenceImagesSettings.of(resolve("pocket", FEW)).draws
    assert few is not None
    split = split_prompts(prompts.texts, few.held_out_fraction)
    exact = few.model_copy(update={"held_out_fraction": len(split.held_out) / len(prompts)})
    assert count_drawn(len(prompts), exact) == len(drawn_prompts(prompts, few))
