"""The vote of sampled answers: the most frequent parsed answer counts.

Source: Wang et al. 2023, arXiv:2203.11171 (self-consistency), with an unweighted sum over the samples.
"""

from collections import Counter
from collections.abc import Sequence

from pipeline.evaluate.scoring.rows import ParsedAnswer


def elect_answer(samples: Sequence[ParsedAnswer]) -> ParsedAnswer:
    """Return the most frequent parsed answer; of equally frequent ones, the one that was sampled first.

    Args:
        samples: the parsed answer of each sample; None: unparsed, which is no vote. Without a vote there is no answer.
    """
    votes = Counter(answer for answer in samples if answer is not None)
    # equal counts keep the order in which the answers appeared
    return votes.most_common(1)[0][0] if votes else None
