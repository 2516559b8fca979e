//! S3's operations on a [`Shelf`](super::shelf::Shelf); `s3s` knows the protocol: signatures, XML, headers.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::Shared;
use super::shelf::{Condition, Refusal};

/// Entries of a page, unless fewer are asked for.
const PAGE: usize = 1000;

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> S3Error {
        match refusal {
            Refusal::NoBucket => s3_error!(NoSuchBucket),
            Refusal::NoObject => s3_error!(NoSuchKey),
            Refusal::NoUpload => s3_error!(NoSuchUpload),
            Refusal::NotSo => s3_error!(PreconditionFailed),
            Refusal::Io(error) => s3_error!(error, InternalError),
        }
    }
}

pub(super) struct Service(pub(super) Arc<Shared>);

pub(super) struct Keys(pub(super) Arc<Shared>);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, id: &str) -> S3Result<SecretKey> {
        self.0.secret_of(id).map(SecretKey::from).ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

async fn all(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    if let Some(mut body) = body {
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part.map_err(|_| s3_error!(IncompleteBody))?);
        }
    }
    Ok(bytes.freeze())
}

fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(condition)) if condition.is_any() => Ok(Condition::Absent),
        (Some(ETagCondition::ETag(tag)), None) => Ok(Condition::Tag(tag.value().to_owned())),
        _ => Err(s3_error!(NotImplemented, "such a condition")),
    }
}

fn tag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[async_trait]
impl S3 for Service {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.0.shelf.make_bucket(&req.input.bucket).map_err(Refusal::from)?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        match self.0.shelf.has_bucket(&req.input.bucket) {
            true => Ok(S3Response::new(HeadBucketOutput::default())),
            false => Err(s3_error!(NoSuchBucket)),
        }
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = req.input;
        let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let bytes = all(input.body).await?;
        let e_tag = tag(&self.0.shelf.put(&input.bucket, &input.key, bytes, &condition)?);
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let entry = self.0.shelf.head(&input.bucket, &input.key)?;
        let (range, content_range) = match &input.range {
            None => (0..entry.size, None),
            Some(range) => {
                let range = range.check(entry.size)?;
                let text = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), entry.size);
                (range, Some(text))
            }
        };
        let bytes = self.0.shelf.read(&input.bucket, &input.key, &entry, range)?;
        let length = whole(bytes.len() as u64);
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::from(s3s::Body::from(bytes))),
            content_length: Some(length),
            content_range,
            e_tag: tag(&entry.tag),
            last_modified: Some(entry.modified.into()),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let entry = self.0.shelf.head(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(whole(entry.size)),
            e_tag: tag(&entry.tag),
            last_modified: Some(entry.modified.into()),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.0.shelf.delete(&req.input.bucket, &req.input.key)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut deleted = Vec::new();
        for object in req.input.delete.objects {
            self.0.shelf.delete(&req.input.bucket, &object.key)?;
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        // A token is the last name of the page before.
        let after = input.continuation_token.clone().or_else(|| input.start_after.clone()).unwrap_or_default();
        let page = input.max_keys.and_then(|keys| usize::try_from(keys).ok()).map_or(PAGE, |keys| keys.min(PAGE));
        let (mut contents, mut folders, mut last) = (Vec::new(), BTreeSet::new(), None);
        let mut truncated = false;
        for (key, entry) in self.0.shelf.list(&input.bucket, &prefix, &after)? {
            let below = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
            let cut = below.and_then(|d| key[prefix.len()..].find(d).map(|at| prefix.len() + at + d.len()));
            let folder = cut.map(|cut| key[..cut].to_owned());
            if folder.as_ref().is_some_and(|folder| folders.contains(folder) || after.starts_with(folder)) {
                continue;
            }
            if contents.len() + folders.len() == page {
                truncated = true;
                break;
            }
            match folder {
                Some(folder) => {
                    // Everything below it counts as seen.
                    last = Some(format!("{folder}\u{10FFFF}"));
                    folders.insert(folder);
                }
                None => {
                    last = Some(key.clone());
                    contents.push(Object {
                        key: Some(key),
                        size: Some(whole(entry.size)),
                        e_tag: tag(&entry.tag),
                        last_modified: Some(entry.modified.into()),
                        ..Default::default()
                    });
                }
            }
        }
        let count = i32::try_from(contents.len() + folders.len()).ok();
        let folder = |prefix: String| CommonPrefix { prefix: Some(prefix) };
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: i32::try_from(page).ok(),
            key_count: count,
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            contents: Some(contents),
            common_prefixes: Some(folders.into_iter().map(folder).collect()),
            delimiter: input.delimiter,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let id = self.0.shelf.begin_upload(&req.input.bucket)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = req.input;
        let bytes = all(input.body).await?;
        let e_tag = tag(&self.0.shelf.put_part(&input.upload_id, input.part_number, bytes)?);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = req.input;
        let condition = condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let numbers: Vec<i32> = parts.iter().filter_map(|part| part.part_number).collect();
        let bytes = self.0.shelf.end_upload(&input.upload_id, &numbers)?;
        let e_tag = tag(&self.0.shelf.put(&input.bucket, &input.key, bytes, &condition)?);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag,
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.0.shelf.abort_upload(&req.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
