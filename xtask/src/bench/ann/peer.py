"""A peer as a subject of `cargo xtask bench ann`: builds an index and searches it when told to.

Same arguments, commands and answers as benches/src/bin/ann.rs:

    LIBRARY BASE.fbin QUERIES.fbin METRIC M EF_CONSTRUCTION K ANSWERS FILTER ENCODING RERANK

`qps` and `cpu_us` come from one call for all queries, repeated until SECONDS have passed: what the binding costs is paid
once a call. The percentiles come from one call per query; what such a call costs without searching is measured on an index
of K rows and taken off (`call_us`).
"""

import json
import statistics
import sys
import time

import numpy as np


def read(path: str, kind: str) -> np.ndarray:
    rows, dim = np.fromfile(path, "<u4", 2)
    return np.fromfile(path, kind, offset=8).reshape(rows, dim)


def normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


class Hnswlib:
    filters = False

    def __init__(self, base, metric, m, ef_construction, encoding, rerank):
        import hnswlib
        from importlib.metadata import version

        assert encoding == "f32" and not rerank
        self.version = version("hnswlib")
        self.base, self.m, self.ef_construction = base, m, ef_construction
        self.index = hnswlib.Index(space=metric, dim=base.shape[1])

    def build(self, threads):
        self.index.init_index(len(self.base), ef_construction=self.ef_construction, M=self.m)
        self.index.add_items(self.base, num_threads=threads)

    def size(self):
        return self.index.index_file_size()

    def search(self, queries, k, ef, threads):
        self.index.set_ef(max(ef, k))
        return lambda q: self.index.knn_query(q, k, num_threads=threads)[0]


class Faiss:
    filters = True

    def __init__(self, base, metric, m, ef_construction, encoding, rerank):
        import faiss

        self.version, self.faiss = faiss.__version__, faiss
        # It knows no cosine: the inner product of normalised rows is it. Neither side is in the time.
        self.normalise = metric == "cosine"
        self.base = normalised(base) if self.normalise else base
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dim = base.shape[1]
        if encoding == "f32":
            self.index = faiss.IndexHNSWFlat(dim, m, kind)
        else:
            code = {"f16": "QT_fp16", "bf16": "QT_bf16", "i8": "QT_8bit"}[encoding]
            self.index = faiss.IndexHNSWSQ(dim, getattr(faiss.ScalarQuantizer, code), m, kind)
        self.index.hnsw.efConstruction = ef_construction
        self.whole = faiss.IndexRefineFlat(self.index) if rerank else self.index
        self.rerank = rerank
        self.allowed = None

    def filter(self, ids):
        self.allowed = self.faiss.IDSelectorBatch(ids)
        if len(ids):
            mask = np.zeros(len(self.base), dtype=bool)
            mask[ids] = True
            self.bits = np.packbits(mask, bitorder="little")
            self.allowed = self.faiss.IDSelectorBitmap(self.bits)

    def build(self, threads):
        self.faiss.omp_set_num_threads(threads)
        if not self.whole.is_trained:
            self.whole.train(self.base)
        self.whole.add(self.base)

    def size(self):
        return len(self.faiss.serialize_index(self.whole))

    def search(self, queries, k, ef, threads):
        self.faiss.omp_set_num_threads(threads)
        ef = max(ef, k)
        params = self.faiss.SearchParametersHNSW(efSearch=ef, sel=self.allowed)
        if self.rerank:
            wanted = min(max(2 * k, k + 10), ef)
            params = self.faiss.IndexRefineSearchParameters(k_factor=wanted / k, base_index_params=params)
        return lambda q: self.whole.search(q, k, params=params)[1]


class Usearch:
    filters = False

    def __init__(self, base, metric, m, ef_construction, encoding, rerank):
        import usearch
        from usearch.index import Index

        assert not rerank
        self.version = usearch.__version__
        # Its bytes are components between -1 and 1; one factor for all keeps the order. Not in the time.
        self.scale = 1.0
        if encoding == "i8" and metric != "cosine":
            self.scale = 1.0 / max(float(np.abs(base).max()), 1e-30)
        self.base = base * np.float32(self.scale) if self.scale != 1.0 else base
        kind = {"l2": "l2sq", "cosine": "cos", "ip": "ip"}[metric]
        self.index = Index(
            ndim=base.shape[1], metric=kind, dtype=encoding, connectivity=m, expansion_add=ef_construction
        )

    def build(self, threads):
        self.index.add(np.arange(len(self.base), dtype=np.uint64), self.base, threads=threads)

    def size(self):
        return self.index.serialized_length

    def search(self, queries, k, ef, threads):
        self.index.expansion_search = max(ef, k)
        return lambda q: self.index.search(q, k, threads=threads).keys


LIBRARIES = {"hnswlib": Hnswlib, "faiss": Faiss, "usearch": Usearch}


def call_us(make, queries, k, ef):
    """What a call for one query costs when there is hardly anything to search, in microseconds."""
    tiny = make(k)
    tiny.build(1)
    return statistics.median(single(tiny.search(queries, k, ef, 1), queries))


def single(search, queries):
    """Microseconds of one call per query."""
    taken = []
    for i in range(len(queries)):
        query = queries[i : i + 1]
        begin = time.perf_counter_ns()
        search(query)
        taken.append((time.perf_counter_ns() - begin) / 1e3)
    return taken


def measure(subject, make, queries, k, ef, threads, seconds, answers):
    search = subject.search(queries, k, ef, threads)
    found = np.asarray(search(queries)).astype(np.int64).reshape(len(queries), -1)
    passes, begin, cpu = 0, time.perf_counter(), time.process_time()
    while passes == 0 or time.perf_counter() - begin < seconds:
        search(queries)
        passes += 1
    total, cpu = time.perf_counter() - begin, time.process_time() - cpu
    overhead = call_us(make, queries, k, ef)
    taken = np.maximum(np.array(single(subject.search(queries, k, ef, 1), queries)) - overhead, 0.0)
    rows = np.full((len(queries), k), -1, dtype="<i4")
    rows[:, : found.shape[1]] = found
    rows.tofile(answers)
    count = passes * len(queries)
    return {
        "qps": count / total,
        "cpu_us": cpu / count * 1e6,
        "p50_us": float(np.quantile(taken, 0.5, method="nearest")),
        "p99_us": float(np.quantile(taken, 0.99, method="nearest")),
        "call_us": overhead,
    }


def main():
    library, base, queries, metric, m, ef_construction, k, answers, chosen, encoding, rerank = sys.argv[1:]
    base, queries, k = read(base, "<f4"), read(queries, "<f4"), int(k)
    allowed = None if chosen == "-" else read(chosen, "<i4").ravel().astype(np.int64)

    def make(rows):
        subject = LIBRARIES[library](base[:rows], metric, int(m), int(ef_construction), encoding, rerank == "f32")
        if allowed is not None:
            if not subject.filters:
                raise SystemExit(f"{library} has no filter that its Python binding could pass without calling back")
            subject.filter(allowed[allowed < rows])
        return subject

    subject = make(len(base))
    if getattr(subject, "normalise", False):
        queries = normalised(queries)
    queries = queries * np.float32(getattr(subject, "scale", 1.0))
    print(json.dumps({"version": subject.version}), flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "build":
            subject = None
            subject = make(len(base))
            begin = time.perf_counter()
            subject.build(int(words[0]))
            build_s = time.perf_counter() - begin
            figures = {"build_s": build_s, "bytes_per_vector": subject.size() / max(len(base), 1)}
        else:
            ef, threads, seconds = int(words[0]), int(words[1]), float(words[2])
            figures = measure(subject, make, queries, k, ef, threads, seconds, answers)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
