# What would go slowly, or never, without a word: said where the jobs are about to start.
onstart:
    # Snakemake's default limit, 100 jobs a second, has it look through every ready job once a
    # second for each job that has ended: after some hundreds of a sweep that takes most of a core.
    # A lower limit that somebody has set stays.
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit and limit.max_jobs >= 100:
        workflow.scheduler.job_rate_limiter = None
    remote = [
        job for job in workflow.dag.needrun_jobs() if not (job.is_local or workflow.local_exec)
    ]
    if workflow.executor_plugin.name == "slurm" and remote:
        script = [sys.executable, str(HERE / "slurm/limits.py")]
        asked = {
            f"{job.rule.name}={job.resources.get('runtime', 0)}"
            f"@{job.resources.get('slurm_partition', '')}"
            for job in remote
        }
        if subprocess.run([*script, "check", *sorted(asked)]).returncode:
            sys.exit(1)
        subprocess.Popen([*script, "watch", str(os.getpid())])
    trains = any("device" in job.resources.keys() for job in workflow.dag.needrun_jobs())
    if workflow.local_exec and trains and not workflow.deployment_settings.deployment_method:
        words = options(
            next(iter(POINTS.values())).network, chosen.jobs, without=["stack_gammas"]
        )
        subprocess.Popen(
            [sys.executable, "-m", "equireg", "step", *shlex.split(words)],
            env={**os.environ, "PYTHONPATH": SOURCES},
        )
