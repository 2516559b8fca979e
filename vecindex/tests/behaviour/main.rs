//! What an index promises, one module per promise.

mod an_index_is_what_a_list_would_be;
mod data;
mod deleted_rows_leave_no_trace;
mod encodings;
mod every_row_is_reached;
mod filters_never_starve_a_search;
mod fixture;
mod growing_beside_searches;
mod many_rows_are_linked_the_same_by_any_threads;
mod memory_per_vector;
mod mutated_files;
mod old_files;
mod recall_on_real_data;
mod refusals_are_typed;
mod rows_in_another_order;
mod rows_that_come_from_elsewhere;
mod saved_in_one_file;
mod sealed_files;
mod search_resumes_until_everything_came_out;
mod searched_by_halves;
mod storage_of_ones_own;
