# Where this workflow's files are: jobs need all of them, and Snakemake may have some only.


def folder_of(place):
    """Where this file is, from where commands are run: ".", or another folder.

    Another one with --directory, and for a workflow of somebody else's that has this one as a
    module. Links lead to the same files. Of a repository elsewhere, as snakedeploy names it,
    Snakemake reads file by file; jobs need them all, so its commit is unpacked below .snakemake/.
    """
    if not hasattr(place, "ref"):
        return Path(os.path.relpath(os.path.realpath(place.get_path_or_uri(secret_free=True))))
    clone = place.hosted_repo.repo_clone if hasattr(place, "hosted_repo") else place.repo_path
    git = ["git", "-C", str(clone)]
    commit = subprocess.check_output([*git, "rev-parse", f"{place.ref}^{{commit}}"], text=True)
    folder = Path(".snakemake", "equireg", commit.strip())
    if not folder.is_dir():
        unpacked = folder.with_name(f"{folder.name}.{os.getpid()}")
        unpacked.mkdir(parents=True)
        packed = subprocess.check_output([*git, "archive", folder.name])
        subprocess.run(["tar", "-x", "-C", str(unpacked)], input=packed, check=True)
        unpacked.rename(folder)
    return folder / place.path
