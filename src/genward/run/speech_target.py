"""What an attack on a speech model gets to touch: one arm behind ``core.speech.SpeechTarget``, every use counted."""

from __future__ import annotations

from collections.abc import Sequence

from genward.core.contracts import Defense
from genward.core.media import Audio
from genward.core.records import Case, Sample
from genward.core.sound import total
from genward.core.speech import Ear, Heard, Voice, find_phrases
from genward.models.speech import SpeechModel, SpeechSampler
from genward.run.guard import arm_hash


class SpeechArm:
    """A speech model with a chain of defenses, as an attacker meets it.

    Args:
        phrases: what the attacker takes for flagged, as a span tagger would tell.
        voice: the attacker's own, for clips. ear: the attacker's own, for the times of words. By default the model's.

    Counters: ``asked`` (requests), ``spoken`` (clips of the attacker), ``listened`` (seconds that it transcribed).
    """

    def __init__(
        self,
        model: SpeechModel,
        sampler: SpeechSampler = SpeechSampler(),  # noqa: B008 - frozen
        defenses: Sequence[Defense] = (),
        *,
        phrases: Sequence[str],
        voice: Voice | None = None,
        ear: Ear | None = None,
    ) -> None:
        self.model, self.sampler, self.defenses, self.phrases = model, sampler, tuple(defenses), tuple(phrases)
        self.voice, self.ear = voice or model.voice, ear or model.ear
        self.kept: dict[str, Audio] = {}
        self.asked = self.spoken = 0
        self.listened = 0.0
        self._heard: dict[str, Heard] = {}
        self._clips: dict[tuple[str, tuple[str, ...] | None], Audio] = {}
        self._arm = arm_hash(model.spec, self.defenses, sampler)  # type: ignore[arg-type]

    def sample(self, cases: Sequence[Case]) -> list[Sample]:
        """The arm's answers, each carrying its arm."""
        made = self.model.generate(cases, self.sampler, self.defenses, sounds=self.kept)
        self.asked += len(made)
        for sample in made:
            sample.arm = self._arm
        return made

    def hear(self, audios: Sequence[Audio]) -> list[Heard]:
        """Transcripts by the attacker's ear; a sound that it heard before is not heard again."""
        new = {audio.sha: audio for audio in audios if audio.sha not in self._heard}
        self.listened += total(new.values())
        self._heard.update(zip(new, self.ear.hear(list(new.values())), strict=True))
        return [self._heard[audio.sha] for audio in audios]

    def speak(self, text: str, phonemes: Sequence[str] | None = None) -> Audio:
        """A clip in the attacker's voice, the same for the same text."""
        key = (text, None if phonemes is None else tuple(phonemes))
        if key not in self._clips:
            self._clips[key] = self.voice.speak(text, 0, phonemes)
            self.spoken += 1
        return self._clips[key]

    def keep(self, audio: Audio) -> str:
        """Keep a clip for requests, by content hash."""
        self.kept[audio.sha] = audio
        return audio.sha

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where a text writes one of the phrases."""
        return find_phrases(text, self.phrases)
