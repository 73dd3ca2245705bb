"""What a run does about signs of a hacked reward or of collapse."""

import logging

from advgrpo.records import ALARM_METRIC
from advgrpo.telemetry.logging import event
from advgrpo.training.collapse import signs_of_collapse
from advgrpo.training.reward_hacking import Alarm, find_alarm
from advgrpo.training.state import TrainingState

logger = logging.getLogger("advgrpo")


def watch(session: TrainingState) -> None:
    """Judge the newest measurement; every rank must call it.

    An alarm is logged in words, and stands in the history, among the metrics and in a tag of the
    run. Collapse is logged when it sets in.
    """
    config = session.config.monitoring.watch
    if config.action == "none":
        return
    alarm = find_alarm(session.history, config, alignment=session.best.alignment)
    # The measures are equal on all ranks; were they not, some would stop and others wait for ever.
    raised = session.process_group.all_reduce_max(float(alarm is not None))
    signs = signs_of_collapse(session.history)
    known = {name for name in signs if _was_there(session, name)}
    session.note(
        {
            ALARM_METRIC: raised,
            **{f"watch/{name}": float(bool(words)) for name, words in signs.items()},
        }
    )
    if not session.process_group.is_first:
        return
    for name, words in signs.items():
        if words and name not in known:
            updates = session.counters.updates
            logger.warning(
                "update %d: %s", updates, words, extra=event("collapse", update=updates, sign=name)
            )
    if alarm is not None:
        session.logger.tags({ALARM_METRIC: str(alarm)})
        ending = "training ends and hands on the best adapter so far"
        going_on = "training goes on (training.monitoring.watch.action=warn)"
        said = ending if config.action == "stop" else going_on
        logger.warning("%s; %s", alarm, said, extra=event("alarm_raised", update=alarm.update))


def _was_there(session: TrainingState, sign: str) -> bool:
    """Tell whether the measurement before this one had a sign of collapse."""
    before = [row for row in session.history if f"watch/{sign}" in row]
    return bool(before) and before[-1][f"watch/{sign}"] > 0


def tag_alarms(session: TrainingState) -> None:
    """Tag the run with the alarms of its history, as `watch` did when it raised them."""
    for alarm in alarms(session):
        session.logger.tags({ALARM_METRIC: str(alarm)})


def stopped_early(session: TrainingState) -> bool:
    """Tell whether an alarm ended the run."""
    if session.config.monitoring.watch.action != "stop":
        return False
    return any(row.get(ALARM_METRIC, 0) > 0 for row in session.history)


def alarms(session: TrainingState) -> list[Alarm]:
    """List the alarms that were raised, in order."""
    config, history = session.config.monitoring.watch, session.history
    found = (
        find_alarm(history[: end + 1], config, alignment=session.best.alignment)
        for end, row in enumerate(history)
        if row.get(ALARM_METRIC, 0) > 0
    )
    return [alarm for alarm in found if alarm is not None]
