/*
 * What the Rust side needs of Postgres and its bindings do not offer: writing and reading XLOG_NOOP records that carry
 * a payload, the physical replication slot that keeps them, and a few macros. Every function may raise an error; the
 * Rust declarations are guarded.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "access/xlogreader.h"
#if PG_VERSION_NUM >= 150000
#include "access/xlogrecovery.h"
#endif
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "common/archive.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "pgstat.h"
#include "postmaster/bgwriter.h"
#include "replication/slot.h"
#include "storage/bufmgr.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/pmsignal.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/tuplestore.h"

#define SLOT_NAME "lsm_s3"
#define READ_AT_ONCE (64 << 20)

/*
 * One record, of a header and a body that may be empty; returns the position of its end, which is what XLogFlush wants,
 * and where it starts.
 */
uint64
kriya_log_insert(const char *header, uint32 header_length, const char *body, uint32 length, bool unimportant,
				 uint64 *start)
{
	uint64		end;

	XLogBeginInsert();
	XLogRegisterData((char *) header, header_length);
	if (length > 0)
		XLogRegisterData((char *) body, length);
	if (unimportant)
		XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	end = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	if (start != NULL)
		*start = ProcLastRecPtr;
	return end;
}

uint64
kriya_log_position(void)
{
	return GetXLogInsertRecPtr();
}

uint32
kriya_log_timeline(void)
{
#if PG_VERSION_NUM >= 150000
	return GetWALInsertionTimeLine();
#else
	return ThisTimeLineID;
#endif
}

static bool
log_is_archived(void)
{
	return recoveryRestoreCommand != NULL && recoveryRestoreCommand[0] != '\0';
}

/* The earliest position from which this process has read the log. */
static XLogRecPtr oldest_read = InvalidXLogRecPtr;

/*
 * Opens a segment of the log. One that is not in pg_wal any more (a restored base backup has only its own) is fetched
 * by restore_command into our folder; its name is gone again as soon as it is open. What the command is told as the
 * oldest segment that a restart would need (%r) is what we began to read at: it may remove everything before.
 */
static void
open_segment(XLogReaderState *reader, XLogSegNo segment, TimeLineID *timeline)
{
	char		path[MAXPGPATH];
	char		name[MAXFNAMELEN];
	char		oldest[MAXFNAMELEN];
	char	   *command;
	XLogSegNo	oldest_segment;
	struct stat found;
	int			status;

	XLogFilePath(path, *timeline, segment, wal_segment_size);
	reader->seg.ws_file = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (reader->seg.ws_file >= 0)
		return;
	XLogFileName(name, *timeline, segment, wal_segment_size);
	if (errno != ENOENT || !log_is_archived())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("write-ahead log segment %s could not be opened: %m", name),
				 errhint("Bring it back into pg_wal, or set restore_command so that it is fetched from the archive.")));
	snprintf(path, sizeof(path), "kriya/%s", name);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
	XLByteToSeg(Min(oldest_read, GetRedoRecPtr()), oldest_segment, wal_segment_size);
	XLogFileName(oldest, *timeline, oldest_segment, wal_segment_size);
	command = BuildRestoreCommand(recoveryRestoreCommand, path, name, oldest);
	fflush(NULL);
	status = command == NULL ? -1 : system(command);
	reader->seg.ws_file = status == 0 ? BasicOpenFile(path, O_RDONLY | PG_BINARY) : -1;
	if (reader->seg.ws_file < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FILE),
				 errmsg("write-ahead log segment %s is neither in pg_wal nor to be had by restore_command", name)));
	unlink(path);
	if (fstat(reader->seg.ws_file, &found) != 0 || found.st_size != wal_segment_size)
	{
		close(reader->seg.ws_file);
		reader->seg.ws_file = -1;
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("write-ahead log segment %s came from the archive in the wrong size", name)));
	}
}

/*
 * Reads records from `from` on, which must be the start or the end of a record, and hands those with our magic to
 * `each`. Stops at or behind `upto`, or when `each` returns false. Returns where the next read would start. The
 * caller has flushed the log up to `upto`: an end before it is an error, for it would look like the end of the log.
 */
uint64
kriya_log_read(uint64 from, uint64 upto, const char *magic, uint32 magic_length,
			   bool (*each) (void *context, uint64 start, uint64 end, const char *data, uint32 length),
			   void *context)
{
	XLogReaderState *reader;
	char	   *message = NULL;
	uint64		next = from;
	MemoryContext old,
				mine;
#if PG_VERSION_NUM >= 150000
	ReadLocalXLogPageNoWaitPrivate private_data = {0};
	void	   *private_pointer = &private_data;
	XLogPageReadCB page_read = &read_local_xlog_page_no_wait;
#else
	void	   *private_pointer = NULL;
	XLogPageReadCB page_read = &read_local_xlog_page;
#endif

	if (from >= upto)
		return from;
	if (oldest_read == InvalidXLogRecPtr || from < oldest_read)
		oldest_read = from;
	mine = AllocSetContextCreate(CurrentMemoryContext, "kriya log reader", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(mine);
	reader = XLogReaderAllocate(wal_segment_size, NULL,
								XL_ROUTINE(.page_read = page_read,
										   .segment_open = &open_segment,
										   .segment_close = &wal_segment_close),
								private_pointer);
	if (reader == NULL)
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(mine);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	/* No transaction ends here that would close the reader's file. */
	PG_TRY();
	{
		XLogBeginRead(reader, from);
		while (next < upto)
		{
			XLogRecord *record = XLogReadRecord(reader, &message);

			if (record == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("write-ahead log could not be read at %X/%X, although it must reach %X/%X",
								LSN_FORMAT_ARGS(next), LSN_FORMAT_ARGS(upto)),
						 errdetail("%s", message ? message : "The log ends there.")));
			next = reader->EndRecPtr;
			if (XLogRecGetRmid(reader) == RM_XLOG_ID &&
				(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) == XLOG_NOOP &&
				XLogRecGetDataLen(reader) >= magic_length &&
				memcmp(XLogRecGetData(reader), magic, magic_length) == 0 &&
				!each(context, reader->ReadRecPtr, reader->EndRecPtr, XLogRecGetData(reader),
					  XLogRecGetDataLen(reader)))
				break;
			/* Whoever asks goes on from here; this thread has other things to do as well. */
			if (next - from >= READ_AT_ONCE)
				break;
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_FINALLY();
	{
		XLogReaderFree(reader);
		MemoryContextSwitchTo(old);
		/* The error, if there is one, was copied out of here. */
		MemoryContextDelete(mine);
	}
	PG_END_TRY();
	return next;
}

static bool
slot_is_lost(ReplicationSlot *slot)
{
	bool		lost;

	SpinLockAcquire(&slot->mutex);
#if PG_VERSION_NUM >= 160000
	lost = slot->data.invalidated != RS_INVAL_NONE;
#else
	lost = slot->data.invalidated_at != InvalidXLogRecPtr && slot->data.restart_lsn == InvalidXLogRecPtr;
#endif
	SpinLockRelease(&slot->mutex);
	return lost;
}

static void
slot_acquire(void)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(SLOT_NAME, true, false);
#else
	ReplicationSlotAcquire(SLOT_NAME, true);
#endif
}

static void
slot_create(void)
{
	CheckSlotRequirements();
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(SLOT_NAME, false, RS_PERSISTENT, false, false, false);
#elif PG_VERSION_NUM >= 140000
	ReplicationSlotCreate(SLOT_NAME, false, RS_PERSISTENT, false);
#else
	ReplicationSlotCreate(SLOT_NAME, false, RS_PERSISTENT);
#endif
}

/* From where on the slot keeps the log; invalid if there is none, or if it was invalidated. */
static XLogRecPtr
slot_position(bool *lost)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(SLOT_NAME, true);
	XLogRecPtr	position;

	*lost = slot != NULL && slot_is_lost(slot);
	if (slot == NULL || *lost)
		return InvalidXLogRecPtr;
	SpinLockAcquire(&slot->mutex);
	position = slot->data.restart_lsn;
	SpinLockRelease(&slot->mutex);
	return position;
}

/*
 * Makes the slot keep the log from `position` on, wherever it was; creates it, or makes it anew where it was
 * invalidated. Set under ReplicationSlotAllocationLock, so that a checkpoint counts it or not, and nothing in between.
 * Nobody stays the slot's owner.
 */
static void
slot_move(XLogRecPtr position)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(SLOT_NAME, true);
	bool		durable;

	if (slot != NULL && slot_is_lost(slot))
	{
		ReplicationSlotDrop(SLOT_NAME, true);
		slot = NULL;
	}
	durable = slot == NULL || slot->data.restart_lsn == InvalidXLogRecPtr || slot->data.restart_lsn > position;
	if (slot == NULL)
		slot_create();
	else
		slot_acquire();
	slot = MyReplicationSlot;

	LWLockAcquire(ReplicationSlotAllocationLock, LW_EXCLUSIVE);
	SpinLockAcquire(&slot->mutex);
	slot->data.restart_lsn = position;
	SpinLockRelease(&slot->mutex);
	ReplicationSlotsComputeRequiredLSN();
	LWLockRelease(ReplicationSlotAllocationLock);

	/* One that was moved on and is forgotten keeps too much, which is no harm. */
	ReplicationSlotMarkDirty();
	if (durable)
		ReplicationSlotSave();
	ReplicationSlotRelease();
}

/*
 * Sees to it that the log from `position` on is kept: true if it is, and is there or may be in an archive. A slot that
 * keeps more is left as it is. One that keeps less moves back, which a checkpoint under way does not know of: it may
 * remove segments, or invalidate the slot, by what it looked at before. So another one is waited for, and then it is
 * looked at what is left.
 */
bool
kriya_slot_keep(uint64 position)
{
	XLogRecPtr	kept;
	bool		lost;
	XLogSegNo	segment;

	for (int tries = 0;; tries++)
	{
		kept = slot_position(&lost);
		if (kept != InvalidXLogRecPtr && kept <= position)
			break;
		if (tries == 3)
			return false;
		slot_move(position);
		/* No checkpoint removes what lies behind its own redo position. */
		if (position < GetRedoRecPtr())
			RequestCheckpoint(CHECKPOINT_IMMEDIATE | CHECKPOINT_FORCE | CHECKPOINT_WAIT);
	}
	XLByteToSeg(position, segment, wal_segment_size);
	return XLogGetLastRemovedSegno() < segment || log_is_archived();
}

/* Lets the log before `position` go; never moves back. A slot that is gone or was invalidated keeps it from there on. */
void
kriya_slot_advance(uint64 position)
{
	bool		lost;
	XLogRecPtr	kept = slot_position(&lost);

	if (kept == InvalidXLogRecPtr || kept < position)
		slot_move(position);
}

/* From where on the slot keeps the log, 0 if it does not; `lost` if it was invalidated. */
uint64
kriya_slot_position(bool *lost)
{
	return slot_position(lost);
}

/*
 * 0: the log from `position` is kept; 1: it is kept for the slot alone (flush soon); 2: it will not be for much longer;
 * 3: it is not.
 */
int
kriya_slot_health(uint64 position)
{
	bool		lost;

	if (slot_position(&lost) == InvalidXLogRecPtr || lost)
		return 3;
	if (max_slot_wal_keep_size_mb >= 0)
	{
		/* As KeepLogSeg has it, but with half the way still to go. */
		XLogSegNo	current,
					needed;

		XLByteToSeg(GetXLogWriteRecPtr(), current, wal_segment_size);
		XLByteToSeg(position, needed, wal_segment_size);
		if (current > needed &&
			(current - needed) * 2 > XLogMBVarToSegs((uint64) max_slot_wal_keep_size_mb, wal_segment_size))
			return XLogGetLastRemovedSegno() < needed ? 2 : 3;
	}
	switch (GetWALAvailability(position))
	{
		case WALAVAIL_RESERVED:
			return 0;
		case WALAVAIL_EXTENDED:
			return 1;
		case WALAVAIL_UNRESERVED:
			/* Without a limit only the slot's own step past `position` makes it so. */
			return max_slot_wal_keep_size_mb >= 0 ? 2 : 1;
		default:
			return 3;
	}
}

/*
 * The lock of the log protocol's rule 7: held in share mode from pre-commit to the end of a transaction that wrote, and
 * taken exclusively once by a new worker. A tag of the kind kept for contributed lock users, with our own numbers.
 */
void
kriya_commit_lock(bool exclusive)
{
	LOCKTAG		tag;

	tag.locktag_field1 = 0;
	tag.locktag_field2 = 0x6c736d73;
	tag.locktag_field3 = 0x33;
	tag.locktag_field4 = 0;
	tag.locktag_type = LOCKTAG_USERLOCK;
	tag.locktag_lockmethodid = DEFAULT_LOCKMETHOD;
	(void) LockAcquire(&tag, exclusive ? ExclusiveLock : ShareLock, false, false);
}

/* After an error that was caught outside of a transaction: what a session's main loop would put in order. */
void
kriya_after_error(void)
{
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	UnlockBuffers();
	XLogResetInsertion();
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
}

bool
kriya_postmaster_is_alive(void)
{
	return PostmasterIsAlive();
}

/* A tuple with nothing stored out of line, or the same tuple. */
HeapTuple
kriya_inline_tuple(HeapTuple tuple, TupleDesc descriptor)
{
	return HeapTupleHasExternal(tuple) ? toast_flatten_tuple(tuple, descriptor) : tuple;
}

/*
 * Whether a column that a foreign key may refer to gets another value. Values that look different but mean the same
 * count as different, as on heap.
 */
bool
kriya_key_changes(Relation relation, HeapTuple old, TupleTableSlot *slot)
{
	Bitmapset  *key = RelationGetIndexAttrBitmap(relation, INDEX_ATTR_BITMAP_KEY);
	TupleDesc	descriptor = RelationGetDescr(relation);
	bool		changes = false;
	int			member = -1;

	while (!changes && (member = bms_next_member(key, member)) >= 0)
	{
		AttrNumber	number = member + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute attribute;
		Datum		before,
					after;
		bool		before_null,
					after_null;

		if (number <= 0)
		{
			/* A whole row or a system column. */
			changes = true;
			break;
		}
		attribute = TupleDescAttr(descriptor, number - 1);
		before = heap_getattr(old, number, descriptor, &before_null);
		after = slot_getattr(slot, number, &after_null);
		changes = before_null != after_null ||
			(!before_null && !datumIsEqual(before, after, attribute->attbyval, attribute->attlen));
	}
	bms_free(key);
	return changes;
}

void
kriya_count(Relation relation, int64 inserted, bool updated, bool deleted)
{
	if (inserted > 0)
		pgstat_count_heap_insert(relation, inserted);
	if (updated)
#if PG_VERSION_NUM >= 160000
		pgstat_count_heap_update(relation, false, false);
#else
		pgstat_count_heap_update(relation, false);
#endif
	if (deleted)
		pgstat_count_heap_delete(relation);
}

void
kriya_count_scan(Relation relation)
{
	pgstat_count_heap_scan(relation);
}

void
kriya_count_rows(Relation relation, int64 n)
{
	if (pgstat_should_count_relation(relation))
#if PG_VERSION_NUM >= 160000
		relation->pgstat_info->counts.tuples_returned += n;
#else
		relation->pgstat_info->t_counts.t_tuples_returned += n;
#endif
}

/* The rows of a function that returns a set, all at once: begins, and leaves the store where the executor looks. */
Tuplestorestate *
kriya_rows_begin(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;
	TupleDesc	descriptor;
	Tuplestorestate *rows;

	if (result == NULL || !IsA(result, ReturnSetInfo) || (result->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the function returns rows and was called where none can be taken"),
				 errhint("Call it in FROM.")));
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "the function is not declared as returning rows");
	rows = tuplestore_begin_heap(true, false, work_mem);
	result->returnMode = SFRM_Materialize;
	result->setResult = rows;
	result->setDesc = descriptor;
	MemoryContextSwitchTo(old);
	return rows;
}

void
kriya_rows_add_check(FunctionCallInfo fcinfo, Tuplestorestate *rows, const char *operation, bool ok, const char *detail)
{
	Datum		values[3] = {CStringGetTextDatum(operation), BoolGetDatum(ok), CStringGetTextDatum(detail)};
	bool		nulls[3] = {false, false, false};

	tuplestore_putvalues(rows, ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc, values, nulls);
}

/*
 * Settings that are secret. Postgres logs the new value of a setting that a reload has changed, and shows raw values in
 * more than one place, so the setting's own value is a constant, and what was typed is kept beside it.
 */
#define NOT_SHOWN "(not shown)"

#if PG_VERSION_NUM < 160000
#define guc_malloc(level, size) malloc(size)
#define guc_free(pointer) free(pointer)
#endif

bool
kriya_check_secret(char **value, void **extra, GucSource source)
{
	const char *typed = *value == NULL ? "" : *value;
	char	   *kept = guc_malloc(LOG, strlen(typed) + 1);
	char	   *shown = guc_malloc(LOG, sizeof(NOT_SHOWN));

	(void) source;
	if (kept == NULL || shown == NULL)
		return false;
	strcpy(kept, typed);
	strcpy(shown, NOT_SHOWN);
	if (*value != NULL)
		guc_free(*value);
	*value = shown;
	*extra = kept;
	return true;
}

#define SECRET(name) \
	static const char *secret_##name = ""; \
	void kriya_assign_##name(const char *value, void *extra); \
	const char *kriya_secret_##name(void); \
	void kriya_assign_##name(const char *value, void *extra) \
	{ \
		(void) value; \
		secret_##name = extra == NULL ? "" : (const char *) extra; \
	} \
	const char *kriya_secret_##name(void) \
	{ \
		return secret_##name; \
	}

SECRET(access_key_id)
SECRET(secret_access_key)
SECRET(session_token)
SECRET(profile)
