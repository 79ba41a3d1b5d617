"""One writing of a cohort: what is asked for, the batches that are still to be done, and the publication."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from voxstack.errors import StoreError, warn, writing
from voxstack.plan import StackWork
from voxstack.progress import track
from voxstack.provenance import record
from voxstack.run import Task, call, check_visible, resources, run
from voxstack.schema import COUNTS, SPACE, SUBJECT, map_names
from voxstack.store import keys, layout
from voxstack.store.append import check_addition, join_covariates, stored_coverage
from voxstack.store.coverage import zero_warning
from voxstack.store.location import Location
from voxstack.store.lock import Lock
from voxstack.store.mask import Mask, choose_mask, mask_name
from voxstack.store.open import open_cohort
from voxstack.store.placing import Placed
from voxstack.store.preparation import Preparation, mask_digest
from voxstack.store.published import Chunking, Editions, Published, chunk_keys
from voxstack.store.standing import Goal, Standing, sweep
from voxstack.store.unfinished import FOLDER, Marks, Plan, has_marks
from voxstack.store.writer import Batch, Buffers, write_batch


@dataclass(frozen=True)
class Request:
    """What a call of `stack` asks for.

    Attributes
    ----------
    location
        The place.
    goal
        What is to become of what is there.
    labels, covariates
        Of the subjects that are written.
    placed
        For each map their images.
    preparation
        How images become maps.
    mask, fraction
        The mask as the user gave it, and the fraction of subjects that must have data.
    sharded
        Whether the maps are written in shards.
    first_level
        For provenance: what was chosen of first-level models.
    """

    location: Location
    goal: Goal
    labels: list[str]
    covariates: Mapping[str, xr.Variable]
    placed: Mapping[str, Sequence[Placed]]
    preparation: Preparation
    mask: Mask
    fraction: float
    sharded: bool
    first_level: Mapping[str, Any]

    @property
    def maps(self) -> list[str]:
        """Names."""
        return list(self.placed)

    @property
    def filtered(self) -> bool:
        """Whether images are resampled or smoothed."""
        elsewhere = any(image.affine is not None for of_map in self.placed.values() for image in of_map)
        return elsewhere or self.preparation.options.smoothing_fwhm is not None

    def first_files(self) -> list[Path]:
        """Of each map the first image that lies in a file."""
        files = (
            [i.source.image for i in of_map if isinstance(i.source.image, Path)] for of_map in self.placed.values()
        )
        return [of_map[0] for of_map in files if of_map]

    def digest(self) -> str:
        """Of what all batches depend on."""
        told = [self.preparation.digest(), self.maps, len(self.labels)]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        return {name: [image.fingerprint or uuid4().hex for image in of_map] for name, of_map in self.placed.items()}

    def fingerprint(self, rows: slice) -> int:
        """Of what one batch is made from; another one at each call for images in memory."""
        files = {name: of_map[rows] for name, of_map in self._files.items()}
        told = json.dumps([self.labels[rows], files]).encode()
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little") | 1  # 0 is "not done"

    def call(self) -> str:
        """Of everything that the call asks for, the images included."""
        covariates = {name: (v.values.tolist(), v.attrs) for name, v in self.covariates.items()}
        told = [self.goal, self.digest(), self.details(), self.fingerprint(slice(None)), covariates]
        return hashlib.blake2b(json.dumps(told, default=str).encode(), digest_size=16).hexdigest()

    def details(self) -> dict[str, Any]:
        """For provenance; whatever is appended must have the same."""
        digest = mask_digest(self.preparation.outside)
        explicit = {} if digest is None else {"mask_digest": digest}
        mask = self.mask if isinstance(self.mask, int | float) else mask_name(self.mask)
        return {"maps": self.maps, **self.first_level, "mask": mask, **explicit, **self.preparation.options.details()}


def build(request: Request, standing: Standing, lock: Lock, *, progress: bool) -> str | None:
    """Carry a request out where it stands, while the lock is held.

    Returns
    -------
    str or None
        What to warn of.

    Raises
    ------
    InputError
        What is appended does not fit; an image that cannot be used; too little memory; an empty mask.
    StoreError
        What is there must stay, or the store cannot be written; what has been done is kept for the next call.
    """
    # Validate
    call = request.call()
    plan, threads = _plan(request, standing)
    store = request.location.open(read_only=False)
    if standing.unswept and plan == standing.unfinished:
        if plan.call == call:  # stopped when everything was done, and called again
            tidy(store)
            return None
        standing = standing.swept()
        plan, threads = _plan(request, standing)
    cohort = _described(request, plan)
    check_visible(request.first_files(), request.location.path)

    # Compute
    with writing(request.location, kept="What was done is kept."):
        arrays = layout.maps_metadata(cohort, request.maps, plan.chunking, Editions(plan.maps, plan.labels))
        marks = Marks(store, len(plan.batches()), len(request.maps), request.preparation.grid.shape)
        _make_room(store, standing, plan)
        plan = plan.begin(store, call)
        tasks = list(_batches(request, plan, arrays, marks, threads))
        for _ in track(
            run(tasks, label="stack", threads_each=threads), total=len(tasks), description="stack", visible=progress
        ):
            lock.check()

        # Conclude
        if marks.fingerprints() != _fingerprints(request, plan):  # a task of a call that was killed came late
            raise StoreError(
                f"Another call has been writing to {request.location} meanwhile, so this one publishes nothing. Call "
                "again."
            )
        coverage, provenance = marks.coverage(), record("stack", **request.details())
        history: tuple[tuple[int, str], ...] = ()
        if plan.first:
            assert standing.published is not None
            coverage += stored_coverage(request.location, standing.published)
            history, provenance = _continued(standing.published, provenance, len(request.labels))
        n = cohort.sizes[SUBJECT]
        chosen = choose_mask(coverage, request.preparation, request.fraction, n, request.mask)
        cohort = cohort.assign_coords(mask=(SPACE, chosen)).assign(n_valid=(SPACE, coverage.n_valid))
        counts = {name: (("counted_map", *SPACE), getattr(coverage, name)) for name in COUNTS}
        editions = Editions(plan.maps, plan.labels, (*history, (n, _digest(history, marks, cohort))))
        lock.check()
        _clear_labels(store, standing, arrays)
        layout.publish(
            store,
            cohort.assign(counts),
            request.maps,
            chunking=plan.chunking,
            editions=editions,
            provenance=provenance,
        )
        tidy(store)
    return zero_warning(coverage, chosen, n, request.maps, request.preparation)


def _plan(request: Request, standing: Standing) -> tuple[Plan, int]:
    """The plan, and the threads that each task uses."""
    preparation, given = request.preparation, resources()
    itemsize = np.dtype(preparation.options.dtype).itemsize
    work = StackWork(preparation.grid.shape, itemsize, len(request.maps), request.filtered, request.sharded)
    size = work.subjects_per_batch(memory=given.memory_each, threads=given.threads_each)
    plan = standing.plan(request.goal, request.digest(), request.labels, Chunking(size, request.sharded))
    work.check(plan.subjects_per_chunk, memory=given.memory_each, threads=given.threads_each)
    return plan, given.threads_each


def _described(request: Request, plan: Plan) -> xr.Dataset:
    """The cohort as it will be, without what its maps will show."""
    labels, covariates = request.labels, dict(request.covariates)
    if plan.first:
        location = request.location
        old = open_cohort(location.url, storage_options=location.storage_options).isel({SUBJECT: slice(plan.first)})
        check_addition(old, labels, covariates, request.details())
        labels, covariates = [*map(str, old[SUBJECT].values), *labels], join_covariates(old, covariates)
    dtype = request.preparation.options.dtype
    return layout.cohort_template(request.preparation.grid, labels, covariates, request.maps, dtype)


def _make_room(store: Store, standing: Standing, plan: Plan) -> None:
    """Sweep what a plan does not go on with."""
    if standing.unfinished == plan:
        sweep(store, keep=lambda key: not keys.is_temporary(key))
        return
    if standing.unfinished is not None and not standing.unswept and has_marks(store):
        warn(
            f"A stopped call was writing other subjects, or with other options, to {standing.location}. What it did "
            "cannot be used; this call begins anew."
        )
    published = standing.published
    sweep(store, keep=lambda key: published is not None and published.owns(key))


def _batches(
    request: Request, plan: Plan, arrays: Mapping[str, Mapping[str, Any]], marks: Marks, threads: int
) -> Iterator[Task]:
    """Tasks of the batches that are not done, or whose files have changed since."""
    buffers = Buffers()  # on worker processes each batch has its own copy
    told = zip(plan.batches(), _fingerprints(request, plan), marks.fingerprints(), strict=True)
    for number, (rows, fingerprint, done) in enumerate(told):
        if fingerprint == done:
            continue
        if done:
            marks.remove(number)
        mine = _of_request(rows, plan)
        maps = {name: of_map[mine] for name, of_map in request.placed.items()}
        batch = Batch(
            number, rows, maps, request.location, arrays, request.preparation, plan, fingerprint, threads, buffers
        )
        yield Task(number, call("stack-batch", write_batch, batch))


def _of_request(rows: range, plan: Plan) -> slice:
    """Rows of the cohort as subjects of the request."""
    return slice(rows.start - plan.first, rows.stop - plan.first)


def _fingerprints(request: Request, plan: Plan) -> list[int]:
    """Of what each batch is to be made from."""
    return [request.fingerprint(_of_request(rows, plan)) for rows in plan.batches()]


def _continued(
    published: Published, provenance: Mapping[str, Any], n: int
) -> tuple[tuple[tuple[int, str], ...], dict[str, Any]]:
    """History and provenance of a cohort that n subjects are appended to."""
    told = dict(published.attributes["provenance"])
    appended = [*told.get("appended", []), {"subjects": n, "versions": provenance["versions"]}]
    return published.editions.history, {**told, "appended": appended}


def _digest(history: Sequence[tuple[int, str]], marks: Marks, cohort: xr.Dataset) -> str:
    """Of all values and of what they are called."""
    told = [history, map_names(cohort), cohort[SUBJECT].values.tolist(), [cohort.sizes[dim] for dim in SPACE]]
    digest = hashlib.blake2b(json.dumps(told).encode(), digest_size=16)
    digest.update(marks.digests().astype("<u8").tobytes())
    return digest.hexdigest()


def _clear_labels(store: Store, standing: Standing, arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove what a publication that was stopped may have left of the edition of the labels that is written now."""
    target = frozenset(f"{name}/{key}" for name, metadata in arrays.items() for key in chunk_keys(metadata))
    published = standing.published
    sweep(
        store,
        keep=lambda key: (
            key in target or key.startswith(f"{FOLDER}/") or (published is not None and published.owns(key))
        ),
    )


def tidy(store: Store) -> None:
    """After publishing: remove whatever is not of the cohort."""
    published = Published.read(store)
    assert published is not None
    sweep(store, keep=lambda key: published.owns(key) or published.owned_before_appending(key))
