# What rules ask of a job's wildcards: in a sweep they say which combination it is of.


def of(wildcards):
    """The configuration of a job's experiment."""
    return POINTS[wildcards.get("experiment", chosen.experiment)]


def data_of(wildcards):
    """The data set's file."""
    return f"results/data/{of(wildcards).data.name}.safetensors"


def network_of(wildcards):
    """The file of a network of the user's own, if there is one."""
    return [str(file) for file in [build_file(of(wildcards).network.build)] if file]


def results_of(wildcards):
    """The folder of a job's experiment."""
    return f"results/{of(wildcards).experiment}"


def blocks_of(suffix):
    """Such a file of every block of a job's experiment."""
    return lambda wildcards: [
        f"{results_of(wildcards)}/{block.path}.{suffix}" for block in blocks(of(wildcards).grid)
    ]


def options_of(*names, **more):
    """The options of a job, from these sections of its experiment's configuration."""
    return lambda wildcards: options(*(section(of(wildcards), name) for name in names), **more)


def shown(what, form):
    """What the report calls a file, in a sweep with its combination."""
    return {"shows": what, "as": form} | ({"of": "{experiment}"} if chosen.sweep else {})


def source_of(wildcards):
    """A configuration that has the data set."""
    name = wildcards.get("data", chosen.data.name)
    return next(point for point in POINTS.values() if point.data.name == name)
