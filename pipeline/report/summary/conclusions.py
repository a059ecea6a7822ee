"""Sentences that say what a report's paired tests allow to conclude, and what they do not."""

from collections.abc import Sequence

from pipeline.core.text import format_percent, format_points
from pipeline.report.comparisons import SIGNIFICANT, PairComparison, compare_pairs, compare_with_bare
from pipeline.report.data import ReportData
from pipeline.report.distillation import compare_filters
from pipeline.report.summary.headline import RankedSection, describe_section
from pipeline.report.summary.origin import has_made_tasks
from pipeline.report.summary.ranking import Ranking
from pipeline.report.tables import MACRO
from pipeline.study.run import BARE

# from more cases on, a sentence counts them instead of naming each
MAX_NAMED_CASES = 6
# what the tests say of the first methods of a ranking
BEST = "Significantly better than every other method"
# a ranking of a single method and its bare base
BETTER_THAN_BARE = "Significantly better than its bare base"
WORSE_THAN_BARE = "Significantly worse than its bare base"
TIES = "Ties, without a winner"


def write_conclusions(data: ReportData, ranked: Sequence[RankedSection]) -> list[str]:
    """Return the sentences below the headline; none goes beyond the tests in the report's tables."""
    if data.has_one_seed:
        seeds = ", ".join(map(str, data.study.seeds))
        return [
            f"Each adapter was trained with one seed ({seeds}), so every number is about these runs alone.",
            "No method can be called better than another, or than its bare base, however large the difference looks: another "
            "seed may reverse it. To find out, add seeds to the study's card.",
        ]
    parts = [
        _conclude_gains(data),
        _conclude_ranks(data, ranked),
        _conclude_filtering(data),
        _conclude_limits(data, ranked),
    ]
    return [part for part in parts if part]


def _conclude_gains(data: ReportData) -> str:
    """Return how many methods differ from their bare base."""
    if not data.has_bare:
        return ""
    differences = [
        difference
        for section in data.sections
        for comparison, difference in compare_with_bare(data, section).items()
        if comparison.column == MACRO
    ]
    if not differences:
        return ""
    found = [difference for difference in differences if difference["holm"] < SIGNIFICANT]
    gains = sum(difference["estimate"] > 0 for difference in found)
    losses, rest = len(found) - gains, len(differences) - len(found)
    test = "macro average, p < 0.05 after Holm's correction over the table"
    if gains == len(differences):
        subject = "The one comparison" if gains == 1 else f"All {gains} comparisons"
        verb = "shows" if gains == 1 else "show"
        return f"{subject} of a method with its bare base {verb} a gain ({test})."
    text = f"Of {len(differences)} comparisons of a method with its bare base, {gains} show a gain and {losses} a loss ({test})"
    return f"{text}; the other {rest} show no significant difference." if rest else f"{text}."


def _conclude_ranks(data: ReportData, ranked: Sequence[RankedSection]) -> str:
    """Return which methods are separated from every other method, and which tie."""
    method_titles = {method.name: method.title for method in data.study.methods} | {BARE: "no adapter"}
    model_titles = {model.name: model.title for model in data.study.models}
    tested = [(part.section, rank) for part in ranked for rank in part.rankings.values() if rank.is_tested]
    if not tested:
        return ""
    if len(tested) > MAX_NAMED_CASES:
        return _count_ranks([ranking for _, ranking in tested])
    groups: dict[str, list[str]] = {BEST: [], BETTER_THAN_BARE: [], WORSE_THAN_BARE: [], TIES: []}
    for section, ranking in tested:
        group, names = _group_rank(ranking)
        methods = join_words([method_titles[name] for name in names])
        groups[group].append(f"{methods} ({model_titles[ranking.model]}, {describe_section(data, section)})")
    return " ".join(f"{group}: {'; '.join(cases)}." for group, cases in groups.items() if cases)


def _group_rank(ranking: Ranking) -> tuple[str, Sequence[str]]:
    """Return the words for what the tests say of a ranking's first methods, and these methods."""
    if not ranking.best:
        return TIES, (ranking.order[0], *ranking.ties)
    if not ranking.has_single_method:
        return BEST, (ranking.best,)
    group = WORSE_THAN_BARE if ranking.best == BARE else BETTER_THAN_BARE
    return group, [name for name in ranking.order if name != BARE]


def _count_ranks(rankings: Sequence[Ranking]) -> str:
    best = sum(ranking.best is not None for ranking in rankings)
    winner = "one method is significantly better than every other"
    if all(ranking.has_single_method for ranking in rankings):
        winner = "the method or its bare base is significantly better than the other"
    return (
        f"In {best} of {len(rankings)} cases (a model in an arm), {winner}, and is in bold. In the other "
        f"{len(rankings) - best}, the highest average ties with others, so no winner can be named."
    )


def _conclude_filtering(data: ReportData) -> str:
    """Return what training on a teacher's right answers alone changes; "" for a study without such arms."""
    titles = {model.name: model.title for model in data.study.models}
    titles |= {method.name: method.title for method in data.study.methods}
    differences = {
        f"{titles[comparison.method]} ({titles[comparison.model]}, {section.arm.name}, {section.protocol})": difference
        for section in data.sections
        for comparison, difference in compare_filters(data, section).items()
        if comparison.column == MACRO
    }
    if not differences:
        return ""
    found = {case: each for case, each in differences.items() if each["holm"] < SIGNIFICANT}
    subject = "Training on the right answers of a teacher alone, instead of on all of its answers,"
    test = "macro average, p < 0.05 after Holm's correction over the table"
    if not found:
        return f"{subject} makes no significant difference ({test})."
    if len(found) > MAX_NAMED_CASES:
        gains = sum(each["estimate"] > 0 for each in found.values())
        losses = len(found) - gains
        return f"{subject} is significantly better in {gains} of {len(differences)} cases and worse in {losses} ({test})."
    changes = join_words(
        [f"{format_points(each['estimate'])} points for {case}" for case, each in found.items()]
    )
    rest = len(differences) - len(found)
    others = f"; {rest} of {len(differences)} cases show no significant difference" if rest else ""
    return f"{subject} changes the accuracy by {changes} ({test}){others}."


def _conclude_limits(data: ReportData, ranked: Sequence[RankedSection]) -> str:
    """Return what the tests leave open."""
    limits = []
    detectable = _find_detectable(data, ranked)
    if detectable is not None:
        size = f"up to {format_percent(detectable)} points" if detectable <= 1 else "of any size"
        limits.append(
            f"Methods that tie are not shown to be equal: a true difference of {size} may go undetected."
        )
    basis = "one run of each model" if data.trains_nothing else f"{len(data.study.seeds)} seeds"
    limits.append(f"The conclusions are about these models and tasks, and rest on {basis}.")
    text = " ".join(limits)
    found, tasks = _count_contaminated_tasks(data)
    # why a small world repeats itself is said above its table
    if found and not has_made_tasks(data):
        text += (
            f" The training sets contain test questions of {found} of {tasks} tasks, verbatim or nearly, which may raise the "
            "accuracy on these tasks (section Contamination)."
        )
    return text


def _find_detectable(data: ReportData, ranked: Sequence[RankedSection]) -> float | None:
    """Return the largest detectable difference between a first adapter and one that it ties with; None without any."""
    values = []
    for section, rankings in ranked:
        for pair, difference in compare_pairs(data, section).items():
            if _are_tied(pair, rankings[pair.model.name]):
                values.append(difference["detectable"])
    return max(values, default=None)


def _are_tied(pair: PairComparison, ranking: Ranking) -> bool:
    """Return whether a pair is the first of a ranking and one that ties with it."""
    names = {pair.first.name, pair.second.name}
    return ranking.order[0] in names and bool(names & set(ranking.ties))


def _count_contaminated_tasks(data: ReportData) -> tuple[int, int]:
    """Return of how many tasks an arm's training set holds questions, and the number of tasks, by arm."""
    tasks = [(arm, task.name) for arm in data.study.arms for task in arm.tasks]
    found = 0
    for arm, task in tasks:
        audits = data.find_own_audits(arm.name)
        found += any(
            method["n"] for audit in audits.values() for method in audit["tests"][task]["methods"].values()
        )
    return found, len(tasks)


def join_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
