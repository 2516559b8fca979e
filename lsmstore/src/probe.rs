//! Whether an object store refuses to create what is there already: on this alone it depends that two writers cannot
//! harm each other.
//!
//! Asked once, when a store is made; the first manifest is the mark that it was. Five requests on two scratch objects, if
//! none conflicts without reason: one is created twice, the other by two at once (some stores check first and write then),
//! and both are deleted.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload};
use uuid::Uuid;

use crate::error::StorageError;
use crate::object::{self, Names};

/// How often a creation is repeated that is refused although nothing is there.
const ATTEMPTS: usize = 8;

/// What a creation came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Made,
    /// It was there, or the store says so: a first attempt that took effect and was repeated hears it, too.
    Refused,
    /// The store has no such operation.
    Unknown,
}

async fn create(objects: &dyn ObjectStore, path: &Path, body: Uuid) -> Result<Outcome, StorageError> {
    let payload = PutPayload::from(Bytes::copy_from_slice(body.as_bytes()));
    match objects.put_opts(path, payload, PutOptions::from(PutMode::Create)).await {
        Ok(_) => Ok(Outcome::Made),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Outcome::Refused),
        Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => Ok(Outcome::Unknown),
        Err(error) => Err(StorageError::object(format!("trying a conditional PUT on {path}"))(error)),
    }
}

/// Tries it under `names`, on scratch objects named by `nonces`.
pub(crate) async fn refuses_second_create(
    objects: &dyn ObjectStore,
    names: &Names,
    nonces: [Uuid; 2],
) -> Result<bool, StorageError> {
    let paths = nonces.map(|nonce| names.probe(nonce));
    let tried = async {
        let mut first = create(objects, &paths[0], nonces[0]).await?;
        for _ in 0..ATTEMPTS {
            // Nobody else has that name: it is there by a first attempt that was repeated, or it was a conflict that is none.
            if first != Outcome::Refused || object::exists(objects, &paths[0]).await? {
                break;
            }
            first = create(objects, &paths[0], nonces[0]).await?;
        }
        if first == Outcome::Unknown || create(objects, &paths[0], nonces[1]).await? != Outcome::Refused {
            return Ok(false);
        }
        let (one, two) = futures::join!(create(objects, &paths[1], nonces[0]), create(objects, &paths[1], nonces[1]));
        // Both may be refused: the winner's answer was lost and it asked again.
        Ok((one?, two?) != (Outcome::Made, Outcome::Made))
    };
    let refused = tried.await;
    // Scratch that stays does no harm.
    let _ = object::delete(objects, paths.to_vec()).await;
    refused
}
