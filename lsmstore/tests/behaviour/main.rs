//! What a store does, seen from outside: one module per subject, test names are the specification.
#![allow(clippy::unwrap_used)]

mod a_folder_whose_bucket_is_gone;
mod an_object_store_that_is_down;
mod background;
mod by_hand;
mod checkpoints;
mod collecting;
mod conditions;
mod crashing;
mod damage;
#[allow(dead_code, reason = "shared with the simulation")]
mod disk;
mod elsewhere;
mod env;
mod external_log;
mod fencing;
mod figures;
mod fixture;
mod flipped;
mod following;
mod following_a_log;
mod following_an_unreliable_store;
mod following_as_a_view;
mod following_within_a_budget;
mod formats;
mod jobs;
mod killed;
mod levels;
mod limits;
mod merging;
mod model;
mod own_log;
mod protocol;
mod publishing;
mod range_deletions;
mod remote_log;
mod syncing;
mod unreliable;
