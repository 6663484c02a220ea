# The first thing that a SLURM job does (precommand in config.yaml): it hands over to job.py, which
# runs the job's command below itself. That one comes by here as well, and goes on.
[ "${EQUIREG_JOB:-}" = "$SLURM_JOB_ID" ] || EQUIREG_JOB=$SLURM_JOB_ID exec python slurm/job.py "$0"
