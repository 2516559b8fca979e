//! Rows that were to be linked while somebody linked others in batches, alone.
//!
//! A thread of a rayon pool that waits for its part of a batch does other tasks of that pool meanwhile. If one of them waited
//! for the end of the batch, it would wait for what stands below it on its own stack. So nobody waits: such rows are put on
//! a list, and who linked alone links them when it has let go.
//!
//! # Invariants
//! * No row stays on the list. Who puts one there looks at it again once it is free to enter; if it is not, somebody links
//!   alone, will let go after that, and looks at the list then.

use super::writer::Writer;
use super::{BuildContext, Hnsw, insert};
use crate::storage::VectorStorage;

impl<S: VectorStorage> Hnsw<S> {
    /// Links a row that the caller has claimed, or leaves it to who links alone.
    pub(super) fn link_claimed(&self, writer: &Writer, id: u32, context: &mut BuildContext<S>) {
        if let Some(_beside) = writer.enter() {
            self.link_now(writer, id, context);
            return;
        }
        writer.leave(id);
        self.link_left(writer, context, &|| true);
    }

    /// Links the rows that were left meanwhile, on all threads of the current pool; gives them back once `go_on` says no. The
    /// caller linked alone and has let go.
    pub(super) fn link_all_left(&self, writer: &Writer, go_on: &(impl Fn() -> bool + Sync)) {
        rayon::scope(|scope| {
            for _ in 0..writer.count_left().min(rayon::current_num_threads()) {
                scope.spawn(|_| self.link_left(writer, &mut BuildContext::default(), go_on));
            }
        });
    }

    fn link_left(&self, writer: &Writer, context: &mut BuildContext<S>, go_on: &impl Fn() -> bool) {
        while let Some(_beside) = writer.enter()
            && let Some(id) = writer.take_left()
        {
            if go_on() {
                self.link_now(writer, id, context);
            } else {
                writer.give_back(id);
            }
        }
    }

    /// Links a row that this thread has claimed. The caller has entered.
    fn link_now(&self, writer: &Writer, id: u32, context: &mut BuildContext<S>) {
        let first = writer.twins.first(&self.storage, id);
        if first == id {
            insert::insert(self, writer, id, context);
        } else {
            insert::join(self, writer, id, first, context);
        }
        writer.finish(&self.graph, id, first);
    }
}
