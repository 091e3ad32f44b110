"""What a rig watches while a batch runs, and how rows end that it was not done for."""

from __future__ import annotations

from collections.abc import Iterable

from genward.core import defending
from genward.core.records import Verdict
from genward.errors import DefenseInactive
from genward.models.ports import Port, Run
from genward.models.wiring import Wiring


class Watch(Wiring):
    """The rig's bookkeeping of a batch: begun, stepped, looked back on, ended."""

    def refuse(self, cases: Iterable[int], by: str, stage: str, step: int, why: str, *, failed: bool = True) -> None:
        """End cases for a reason that is no defense's decision (``failed``), or by the word of one that has no
        frame."""
        run = self._running("refuse")
        for case in cases:
            if bool(run.alive[case]):
                run.alive[case] = False
                run.why.setdefault(case, why if why.startswith(f"{by} ") else f"{by}: {why}")
                run.verdicts.setdefault(case, []).append(Verdict("blocked", by, stage, step, why=why))
                if failed:
                    run.failed.add(case)

    def stepped(self, step: int) -> None:
        """Told by the pipeline itself that ``step`` is finished.

        Raises:
            DefenseInactive: in this step the attached denoiser was not called, or a port was not that should have been.
            GuardError: the pipeline's parts are not those that were attached.
        """
        run = self._running("step")
        run.seen, calls, run.calls = step, run.calls, self.calls
        self.inspect(weights=False)
        if not self.guarding:
            return
        if self.calls == calls:
            raise DefenseInactive(
                f"the denoiser that the guards are attached to was not called in step {step}, so nothing was guarded; "
                "what runs in its place (another model, a cache) must be taken out"
            )
        for port in self.ports:
            if port.kind in ("tap", "inputs", "guidance") and port.active(step, run.steps) and port.last != step:
                self._inactive(port, f"in step {step}")

    def verify(self) -> None:
        """Look back on a batch: ``DefenseInactive`` for every attached port that should have been called and was not,
        ``GuardError`` for parts or weights that were changed."""
        run = self._running("verify")
        survived = bool(run.alive.any())
        for port in self.ports:
            if port.kind in ("prompts", "readings", "passages", "text"):
                due = True
            elif port.kind == "images":
                due = survived
            elif port.kind == "starts":
                due = run.pictured and survived
            else:
                due = run.entered and port.ever(run.steps) and (survived or port.active(0, run.steps))
            if due and port.calls == 0:
                self._inactive(port)
        if survived and run.entered and self.guarding and bool((run.nfe[run.alive] == 0).any()):
            raise DefenseInactive("rows went through sampling without the denoiser that the guards are attached to")
        self._looked(run)
        self.inspect()

    def _looked(self, run: Run) -> None:
        """Refuse rows that a detector let through without a score at the step at which it says that it decides."""
        for defense in self.defenses if run.entered else ():
            last, owner = defending.last_look(defense, run.steps), type(defense).name
            if last is not None and run.alive.any():
                seen = run.looked.get(owner, {})
                unseen = [case for case in run.alive.nonzero().flatten().tolist() if seen.get(case, -1) < last]
                why = f"it noted no score at step {last}, where it decides, so nobody knows what it saw"
                self.refuse(unseen, owner, "denoise", last, why)

    @staticmethod
    def _inactive(port: Port, when: str = "") -> None:
        raise DefenseInactive(
            f"{port.owner}: {port.where} was never called{when and ' '}{when}, so nothing was guarded; a model "
            "compiled "
            "before the guard was attached ignores hooks (attach first, or use the uncompiled model), an offloaded one "
            "can lose them, and a cache skips blocks"
        )

    def begin(self, run: Run) -> None:
        """Start counting a new batch."""
        self._reset()
        self.run = run
        self.calls = 0
        for port in self.ports:
            port.calls, port.last = 0, -2

    def end(self) -> None:
        """Forget the batch, one that was interrupted as well."""
        self._reset()
