//! The writer as the owner of the bucket: it alone deletes there.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use crate::checkpoint::Checkpoints;
use crate::config::Retention;
use crate::error::Unusable;
use crate::gc::{GcError, GcOptions, GcReport, Owner, Pass};
use crate::sstable::TableId;
use crate::store::jobs::{Ending, JobKind, Ticket};
use crate::store::{Inner, Store, lock};

impl Store {
    /// Makes one pass over the bucket: deletes what an earlier pass of this handle found that nobody can need any more, and
    /// finds more. Nothing else does: whoever owns a store calls this now and then. One at a time; writes, flushes and
    /// merges go on meanwhile. Costs a listing of each folder, and the reading of manifests that this handle did not make.
    ///
    /// # Errors
    /// [`GcError`]; the next pass goes on.
    pub async fn collect_garbage(&self, options: GcOptions) -> Result<GcReport, GcError> {
        let mut job = self.inner.jobs.queue(JobKind::Garbage, self.inner.env.reactor());
        let collected = self.collect(options, &mut job).await;
        job.end(collected.as_ref().map(|report| match report.dry_run || report.deleted.is_empty() {
            true => Ending::Nothing,
            false => Ending::Done(report.deleted_bytes()),
        }));
        collected
    }

    async fn collect(&self, options: GcOptions, job: &mut Ticket<'_>) -> Result<GcReport, GcError> {
        let inner = &*self.inner;
        let mut memory = inner.garbage.lock().await;
        inner.usable()?;
        job.begin(None, None);
        let retention = inner.config.retention;
        let retention = Retention { age: options.keep_for.unwrap_or(retention.age), ..retention };
        let pass = Pass {
            objects: &*inner.objects,
            names: &inner.names,
            env: &*inner.env,
            retention,
            known: &inner.known,
            owner: Some(inner),
            dry_run: options.dry_run,
        };
        match options.dry_run {
            true => pass.run(&mut memory.clone()).await,
            false => pass.run(&mut memory).await,
        }
    }

    /// The checkpoints of this store's bucket.
    pub fn checkpoints(&self) -> Checkpoints {
        let inner = &self.inner;
        Checkpoints::of(Arc::clone(&inner.objects), Arc::clone(&inner.env), inner.names.clone())
    }
}

#[async_trait]
impl Owner for Inner {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn published(&self) -> u64 {
        lock(&self.manifest).number
    }

    fn logged_from(&self) -> u64 {
        self.logged_from.load(Ordering::Acquire)
    }

    async fn local_tables(&self) -> HashSet<TableId> {
        self.local.lock().await.manifest.levels.iter().flatten().map(|table| table.id).collect()
    }

    fn fenced(&self, manifest: u64) -> Unusable {
        self.poison(Unusable::Fenced { epoch: self.epoch, manifest })
    }
}
