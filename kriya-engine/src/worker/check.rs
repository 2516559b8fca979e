//! Tries what the worker needs of an object store, on scratch objects of its own.
//!
//! It runs with the settings asked for last, whether the worker serves with them, with others, or not at all.

use std::fmt;
use std::sync::Arc;

use futures::TryStreamExt;
use lsmstore::objects::ObjectStore;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::protocol::CheckLine;
use crate::worker::config::WorkerConfig;
use crate::worker::live::Live;
use crate::worker::place::objects_of;
use crate::worker::startup::StartError;

/// Content of scratch objects.
const SCRATCH: &[u8] = b"KriyaDB: a scratch object of a check, to be removed";

/// Whoever can be asked for a check.
#[derive(Clone)]
pub(crate) struct Checker {
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) live: Arc<Live>,
}

impl Checker {
    /// Tries everything; waits for it.
    pub(crate) fn check(&self) -> Vec<CheckLine> {
        let config = self.live.asked();
        match objects_of(&config, &self.live) {
            Ok(objects) => self.runtime.block_on(check(&*objects, &config)),
            Err(error) => vec![line("settings", false, error.why())],
        }
    }
}

fn line(operation: &str, ok: bool, detail: impl fmt::Display) -> CheckLine {
    CheckLine { operation: operation.to_owned(), ok, detail: detail.to_string() }
}

/// A name for a scratch object that nobody else uses.
fn scratch(config_prefix: &str) -> Path {
    let name = format!("check/{}", Uuid::new_v4());
    if config_prefix.is_empty() { Path::from(name) } else { Path::from(format!("{config_prefix}/{name}")) }
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

/// Whether a second creation of an object is refused: on this alone it depends that two writers cannot harm each other.
///
/// # Errors
/// What the object store says.
pub(crate) async fn refuses_second_create(objects: &dyn ObjectStore, prefix: &str) -> Result<bool, Error> {
    let path = scratch(prefix);
    match objects.put_opts(&path, PutPayload::from_static(SCRATCH), create()).await {
        // A first attempt that took effect and was tried again says so, too.
        Ok(_) | Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
        Err(error) => return Err(error),
    }
    let again = objects.put_opts(&path, PutPayload::from_static(SCRATCH), create()).await;
    // A scratch object that stays does no harm.
    let _ = objects.delete(&path).await;
    match again {
        Ok(_) => Ok(false),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The refusal of a store without conditions.
pub(crate) fn unconditional(config: &WorkerConfig) -> StartError {
    StartError::refused(
        format!("{} does not honour conditional PUT, so that it cannot keep two writers apart", config.place()),
        "Use an object store that supports If-None-Match, as Amazon S3, MinIO and Cloudflare R2 do.",
    )
}

async fn check(objects: &dyn ObjectStore, config: &WorkerConfig) -> Vec<CheckLine> {
    let prefix = config.object_prefix();
    let (path, mut lines) = (scratch(&prefix), Vec::new());
    let mut note = |operation: &str, right: &str, result: Result<String, Error>| {
        let (ok, detail) = match result {
            Ok(detail) => (true, detail),
            Err(error) => (false, told(&error, right)),
        };
        lines.push(line(operation, ok, detail));
        ok
    };
    let put = objects.put(&path, PutPayload::from_static(SCRATCH)).await;
    let hopeless = put.as_ref().err().is_some_and(is_hopeless);
    let put = note("PUT", "s3:PutObject", put.map(|_| config.place()));
    if hopeless {
        for operation in ["GET", "LIST", "conditional PUT", "DELETE"] {
            lines.push(line(operation, false, "not tried"));
        }
        return lines;
    }
    let got = async { objects.get(&path).await?.bytes().await }.await;
    let got = match got {
        Err(Error::NotFound { .. }) if !put => Ok("there was nothing to be read".to_owned()),
        Ok(bytes) if bytes != SCRATCH => {
            Err(Error::Generic { store: "check", source: "the object came back changed".into() })
        }
        other => other.map(|_| String::new()),
    };
    note("GET", "s3:GetObject", got);
    let listed: Result<Vec<_>, _> =
        objects.list(parent(&path).as_ref()).map_ok(|meta| meta.location).try_collect().await;
    let listed = listed.and_then(|names| match !put || names.contains(&path) {
        true => Ok(String::new()),
        false => {
            Err(Error::Generic { store: "check", source: "the object that was just put is not in the list".into() })
        }
    });
    note("LIST", "s3:ListBucket", listed);
    let conditional = match refuses_second_create(objects, &prefix).await {
        Ok(true) => Ok(String::new()),
        Ok(false) => {
            let what = "this store cannot fence writers: a second creation of the same object succeeded";
            Err(Error::Generic { store: "check", source: what.into() })
        }
        Err(error) => Err(error),
    };
    note("conditional PUT", "s3:PutObject", conditional);
    note("DELETE", "s3:DeleteObject", objects.delete(&path).await.map(|()| String::new()));
    lines
}

fn parent(path: &Path) -> Option<Path> {
    path.as_ref().rsplit_once('/').map(|(parent, _)| Path::from(parent))
}

/// What somebody is told; of a missing right, its name.
fn told(error: &Error, right: &str) -> String {
    // Without it, "Generic S3 error: " stands before everything.
    let text = match error {
        Error::Generic { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    #[cfg(feature = "s3")]
    if let Some(failure) = lsmstore::objects::S3Failure::of(error)
        && failure.problem == lsmstore::objects::S3Problem::Denied
    {
        return format!("{text}: the key needs the permission {right}");
    }
    let _ = right;
    text
}

/// Whether nothing else is worth trying.
fn is_hopeless(error: &Error) -> bool {
    #[cfg(feature = "s3")]
    if let Some(failure) = lsmstore::objects::S3Failure::of(error) {
        use lsmstore::objects::S3Problem::{Credentials, NoCredentials, NoSuchBucket, Settings, Silent, Unreachable};
        return matches!(failure.problem, Credentials | NoCredentials | NoSuchBucket | Settings | Silent | Unreachable);
    }
    let _ = error;
    false
}
