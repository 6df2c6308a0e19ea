"""Where the loop of a training run leaves its states."""

from collections.abc import Callable, Mapping

from simclr_jax import base, distributed
from simclr_jax.run import checkpoint, finite, progress


class Saver:
    """The checkpoints of a run that trains: the first one of a run is read back, and each one once evaluated is scored.

    A state is saved before anything optional runs: whatever happens to an evaluation, the training is kept. One with
    NaN or infinity is never saved.
    """

    def __init__(
        self,
        checkpoints: checkpoint.Checkpoints,
        like: base.TrainState,
        scores: dict[int, float],
        find_nonfinite: Callable[[base.TrainState], list[str]],
        *,
        is_proven: bool,
    ):
        self._checkpoints, self._like, self.scores = checkpoints, like, scores
        self._find_nonfinite, self._is_proven = find_nonfinite, is_proven
        self._is_clean = True  # nothing was trained that is not saved

    def is_saving(self) -> bool:
        """Whether a state is being written; may be asked by another thread."""
        return not checkpoint.is_written(self._checkpoints)

    def why_nothing_is_lost(self) -> str:
        """Why the program may end at once, "" while it may not; may be asked by another thread."""
        if not self._is_clean or self.is_saving():
            return ""
        return "the state is saved" if self._checkpoints.latest_step() is not None else "nothing was trained yet"

    def moved(self) -> None:
        """To be called after every update."""
        self._is_clean = False

    def check(self) -> None:
        """Raises InputError once it is known that the state being written cannot be."""
        checkpoint.check(self._checkpoints)

    def finish(self) -> None:
        """Waits until everything that was saved is on disk."""
        checkpoint.finish(self._checkpoints)

    def newest(self, peers: distributed.Peers) -> base.TrainState | None:
        """The newest intact state that was saved, in its place on the devices; all processes call it."""
        self._checkpoints.wait_until_finished()
        peers.any(False)  # not before the process that writes has written
        return checkpoint.restore_latest(self._checkpoints, self._like, warn=progress.say, any_process=peers.any)

    def save(self, state: base.TrainState, step: int, *, norms: Mapping[str, float]) -> None:
        """Raises Diverged where the state is not finite: its loss was that of the state before the update.

        norms: of the gradient of the update, see `finite.Diverged`.
        """
        bad = self._find_nonfinite(state)
        if bad:
            raise finite.Diverged(
                f"the update to step {step} made the state non-finite: {len(bad)} arrays have NaN or infinity, the "
                f"first is {bad[0]}",
                step=step - 1,
                norms=norms,
            )
        checkpoint.save(self._checkpoints, state, step=step)
        self._is_clean = True
        if not self._is_proven:
            checkpoint.read_back(self._checkpoints, self._like, step=step)
            self._is_proven = True
