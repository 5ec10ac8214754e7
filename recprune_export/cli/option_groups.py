"""`GroupedCommand`: a command whose `--help` lists its options in groups."""

from collections.abc import Mapping

import click

# The group of each option, by the name of its parameter; "Job" has the options of how the command runs.
OPTION_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Model": ("factory", "factory_args", "inputs", "key", "unsafe_unpickle", "model", "recommender", "dim", "hidden"),
    "Data": (
        "data", "labels", "weight", "missing_label", "split", "split_by_time", "split_by_user", "separator", "encoding",
        "allow_unknown", "ignore", "categorical", "numeric", "multi_valued", "missing", "sequence", "max_length", "stream", "readers",
    ),
    "Pruning": (
        "sparsity", "embedding_sparsity", "hidden_sparsity", "max_bytes", "prune_fields", "prune_rows", "structured_fraction",
        "score", "width_multiple", "infer_rules", "pruning_stages", "sparsity_schedule", "regularize", "plan_file", "plan_only",
    ),
    "Search": (
        "max_drop", "minimize", "target_speedup", "target_latency", "target_batch_sizes", "sparsities", "byte_fractions",
        "max_fall", "check_only", "undecided",
    ),
    "Fine-tuning": ("epochs", "learning_rate", "batch_size", "patience"),
    "Quantization": ("quantize", "max_quantize_drop"),
    "Export": (
        "outputs", "shared_inputs", "bad_ids", "padded", "opset", "runtime_min", "operators", "raw_inputs", "vocabularies",
        "top_k", "item_ids", "exclude_seen", "max_batch", "calibration_rows", "no_dense", "triton", "mlflow", "shards", "license", "sign",
    ),
    "Measuring": ("metrics", "group", "latency_batch_sizes", "threads", "quick"),
    "Job": ("output", "dry_run", "config", "resume", "jobs", "shard", "seed", "verbose", "as_json", "quiet"),
}  # fmt: skip


class GroupedCommand(click.Command):
    """A command with many options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group; options without a group are added to the last one."""
        for title, options in group_options(self, ctx).items():
            rows = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if rows:
                name = "Training" if ctx.command.name == "train" and title == "Fine-tuning" else title
                with formatter.section(f"{name} options"):
                    formatter.write_dl(rows)


def group_options(command: click.Command, ctx: click.Context) -> dict[str, list[click.Parameter]]:
    """Return the options of a command by the title of their group, each group in the order of `OPTION_GROUPS`."""
    options = {option.name: option for option in command.get_params(ctx) if isinstance(option, click.Option)}
    groups: dict[str, list[click.Parameter]] = {}
    for title, names in OPTION_GROUPS.items():
        groups[title] = [options.pop(name) for name in names if name in options]
    groups[title] += options.values()
    return groups
