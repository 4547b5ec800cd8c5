//! One key that is followed: the entries of a stream, or the items of a list, as they come.
//!
//! Each has a number that only grows, and the target's mark says up to which one everything is committed; the server is told so afterwards. For
//! a stream that is the id of an entry, and a consumer group of the pipeline's own stands there. The items of a list are moved aside, together
//! with the count of those that were taken for good before them: what is not committed when haul is killed is found there again.

mod scripts;

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use redis::Value;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::timeout;

use self::scripts::{DONE, GIVE_BACK, LEFT, TAKE};
use super::decode::{Head, Item, Rows};
use super::layout::Layout;
use super::place::{Place, Said, behind, number_of};
use super::{layout, sample};
use crate::connectors::redis::marks::tag_of;
use crate::connectors::redis::reply::{bytes, good, integer, items};
use crate::connectors::redis::{Command, Lease, Server, Version, slot};
use crate::connectors::{Description, ReadRequest, Reading, Source, Split, SplitGoal, Splits, requested};
use crate::data::{BatchLimit, BatchStream, Chunk, Lag, Position, Schema};
use crate::define::pipeline::{RESERVED, RedisFollow, RowShape};
use crate::failure::Failure;
use crate::tasks;

/// The wait between two questions when nothing is new, and no connection is free on which the server could say when there is.
const IDLE: Duration = Duration::from_millis(100);
/// The longest that the server is waited for on a connection of the reader's own.
const BLOCK: Duration = Duration::from_secs(1);
/// The first version that moves an item aside as soon as there is one.
const MOVES: Version = Version(6, 2, 0);
/// Entries or items that one question asks for: the first, and at most.
const FIRST: usize = 64;
const AT_ONCE: usize = 1000;
/// Chunks that may wait for the one who takes them.
const AHEAD: usize = 2;
/// The first version that counts the entries that a stream has ever had.
const COUNTS: Version = Version(7, 0, 0);

/// What every part of following a key needs.
struct Followed {
    server: Arc<Server>,
    spec: RedisFollow,
    /// The key; for a list also those of haul's own in the same slot: the items that were moved aside, and the count of those before them.
    keys: [Vec<u8>; 3],
}

/// A key that is followed, as a source.
pub(super) struct FollowSource {
    followed: Arc<Followed>,
    found: OnceCell<(Schema, Vec<bool>)>,
}

impl FollowSource {
    /// Touches nothing yet.
    pub(super) fn new(server: Arc<Server>, spec: RedisFollow) -> Self {
        let key = spec.rows.key.constant().unwrap_or_default().as_bytes().to_vec();
        let tag = if spec.rows.shape == RowShape::List { tag_of(slot(&key)) } else { 0 };
        let aside = |what: &str| format!("{RESERVED}{tag}}}:{what}:{}", spec.name).into_bytes();
        let keys = [key, aside("taken"), aside("count")];
        Self { followed: Arc::new(Followed { server, spec, keys }), found: OnceCell::new() }
    }

    async fn columns(&self) -> Result<&(Schema, Vec<bool>), Failure> {
        self.found.get_or_try_init(|| sample::columns(&self.followed.server, &self.followed.spec.rows)).await
    }
}

#[async_trait]
impl Source for FollowSource {
    async fn describe(&self) -> Result<Description, Failure> {
        let (schema, _) = self.columns().await?;
        let spec = &self.followed.spec;
        let consistency = if spec.rows.shape == RowShape::List {
            format!("items are moved to {}, and removed when they are committed", String::from_utf8_lossy(&self.followed.keys[1]))
        } else if self.followed.server.facts().await?.version >= COUNTS {
            format!("followed by the consumer group {}; entries that are trimmed before they are read end the stream", spec.name)
        } else {
            format!("followed by the consumer group {}; a server before 7.0 does not tell of entries that are trimmed unread", spec.name)
        };
        Ok(Description { schema: schema.clone(), key: layout::key(&spec.rows), rows: None, bytes: None, wire: None, consistency })
    }

    async fn open(&self, request: ReadRequest) -> Result<Arc<dyn Reading>, Failure> {
        let (schema, guessed) = self.columns().await?;
        let wanted = requested(schema, &request)?;
        let guessed =
            wanted.columns.iter().map(|column| schema.find(&column.name).is_some_and(|(place, own)| guessed[place] && own.ty == column.ty));
        let layout = Layout::of(&self.followed.spec.rows, &wanted, guessed.collect())?;
        Ok(Arc::new(Following { followed: Arc::clone(&self.followed), layout, limit: request.limit }))
    }

    async fn forget(&self) -> Result<Vec<String>, Failure> {
        let followed = &self.followed;
        let name = String::from_utf8_lossy(&followed.keys[0]).into_owned();
        if followed.spec.rows.shape == RowShape::List {
            let back = integer(followed.script(GIVE_BACK, &followed.keys, 0).await?)?;
            return Ok(vec![format!("the count of `{name}`; {back} items that were not committed are in it again")]);
        }
        let destroy = Command::new("XGROUP DESTROY").key(&followed.keys[0]).arg(followed.spec.name.as_str());
        // A stream that is not there any more has no groups.
        let gone = followed.server.call(&[destroy]).await?.pop().unwrap_or_default();
        Ok(matches!(gone, Value::Int(1)).then(|| format!("the consumer group {} of `{name}`", followed.spec.name)).into_iter().collect())
    }
}

impl Followed {
    async fn script(&self, script: &str, keys: &[Vec<u8>], argument: u64) -> Result<Value, Failure> {
        let command = keys.iter().fold(Command::new("EVAL").arg(script).arg(keys.len()), |command, key| command.key(key));
        good(self.server.call(&[command.arg(argument)]).await?.pop().unwrap_or_default())
    }

    /// Begins to follow: says where, and what is there already.
    async fn begin(&self, from: Option<Place>) -> Result<Place, Failure> {
        if self.spec.rows.shape == RowShape::List {
            let count =
                integer(self.server.call(&[Command::new("GET").key(&self.keys[2])]).await?.pop().unwrap_or_default())?.unsigned_abs();
            if let Some(from) = from.filter(|from| from.count < count) {
                let message = format!("{count} items were removed as committed, and the target has {} of them", from.count);
                return Err(
                    Failure::permanent(message).help("the target is older than it was; `--fresh` goes on with the items that are there")
                );
            }
            return Ok(Place::new(count, String::new()));
        }
        let start = from.as_ref().map_or("0", |place| place.id.as_str());
        let create = Command::new("XGROUP CREATE").key(&self.keys[0]).arg(self.spec.name.as_str()).arg(start).arg("MKSTREAM");
        match self.server.call(&[create]).await?.pop().unwrap_or_default() {
            Value::ServerError(error) if error.code() == "BUSYGROUP" => {}
            reply => drop(good(reply)?),
        }
        match from {
            Some(place) => Ok(place),
            // What is gone already is nothing that was missed.
            None => {
                let asks = self.asks().await?;
                let said = self.server.call(asks.as_slice()).await?.pop();
                let removed = said.map(Said::read).transpose()?.map_or(0, |said| said.removed);
                Ok(Place::new(removed, "0-0".to_owned()))
            }
        }
    }

    /// Asks how many entries of the stream are gone; nothing of a server that does not count.
    async fn asks(&self) -> Result<Option<Command>, Failure> {
        Ok((self.server.facts().await?.version >= COUNTS).then(|| Command::new("XINFO STREAM").key(&self.keys[0])))
    }

    /// A connection to wait on, when one is free.
    async fn lend(&self) -> Option<Lease> {
        let lend = async {
            let topology = self.server.topology().await.ok()?;
            self.server.lend(&topology.master(slot(&self.keys[0]))?.address).await.ok()
        };
        timeout(BLOCK, lend).await.ok().flatten()
    }

    /// Is answered as soon as something comes behind a place. An item of a list is moved aside by that.
    async fn wakes(&self, at: &Place) -> Option<Command> {
        let [key, aside, _] = &self.keys;
        if self.spec.rows.shape == RowShape::Stream {
            let block = Command::new("XREAD BLOCK").arg(BLOCK.as_millis() as u64);
            return Some(block.arg("COUNT").arg(1).arg("STREAMS").key(key).arg(at.id.as_str()));
        }
        let moves = self.server.facts().await.ok()?.version >= MOVES;
        moves.then(|| Command::new("BLMOVE").key(key).key(aside).arg("LEFT").arg("RIGHT").arg(BLOCK.as_secs()))
    }

    /// Fails when entries behind a place were removed before they were read.
    fn check(&self, at: &Place, said: Value) -> Result<(), Failure> {
        let Said { removed, first } = Said::read(said)?;
        // As long as an entry is there that was read, none behind it was trimmed.
        if first.is_some_and(|first| number_of(&first) <= number_of(&at.id)) || removed <= at.count {
            return Ok(());
        }
        let (missed, key) = (removed - at.count, String::from_utf8_lossy(&self.keys[0]).into_owned());
        Err(Failure::permanent(format!("{missed} entries of the stream `{key}` were trimmed or deleted before they were read"))
            .help("let it keep more entries (`maxlen`); `--fresh` goes on with those that are there"))
    }

    /// What comes behind a place, which moves on; true when more may be waiting.
    async fn next(&self, at: &mut Place, rows: &mut Rows, fresh: &mut bool, most: usize) -> Result<bool, Failure> {
        let head = Head { key: &self.keys[0], parts: &[], expires_ms: None };
        if self.spec.rows.shape == RowShape::Stream {
            let mut commands: Vec<Command> = self.asks().await?.into_iter().collect();
            commands.push(Command::new("XRANGE").key(&self.keys[0]).arg(behind(&at.id)).arg("+").arg("COUNT").arg(most));
            let mut replies = self.server.call(&commands).await?;
            let entries = items(replies.pop().unwrap_or_default())?;
            if let Some(said) = replies.pop() {
                self.check(at, said)?;
            }
            let more = entries.len() == most;
            for entry in entries {
                at.id = String::from_utf8_lossy(&rows.push_entry(head, entry)?).into_owned();
                at.count += 1;
            }
            return Ok(more);
        }
        // What an earlier process has moved aside comes first.
        let left = std::mem::take(fresh);
        let mut taken = items(self.script(if left { LEFT } else { TAKE }, &self.keys, most as u64).await?)?.into_iter();
        if u64::try_from(integer(taken.next().unwrap_or_default())?) != Ok(at.count) {
            let key = String::from_utf8_lossy(&self.keys[0]).into_owned();
            return Err(Failure::transient(format!("somebody else takes items of `{key}` under the same name")));
        }
        let found = items(taken.next().unwrap_or_default())?;
        let more = left || found.len() == most;
        for item in found {
            self.push(rows, at, &bytes(item)?.unwrap_or_default());
        }
        Ok(more)
    }

    /// Takes an item of a list that was moved aside.
    fn push(&self, rows: &mut Rows, at: &mut Place, value: &[u8]) {
        let head = Head { key: &self.keys[0], parts: &[], expires_ms: None };
        rows.push(head, Item { value, index: i64::try_from(at.count).unwrap_or(i64::MAX), ..Item::default() });
        rows.count(value.len());
        at.count += 1;
    }
}

/// A view of what is followed.
struct Following {
    followed: Arc<Followed>,
    layout: Layout,
    limit: BatchLimit,
}

#[async_trait]
impl Reading for Following {
    fn schema(&self) -> &Schema {
        &self.layout.schema
    }

    async fn splits(&self, _: SplitGoal) -> Result<Splits, Failure> {
        let label = String::from_utf8_lossy(&self.followed.keys[0]).into_owned();
        Ok(Splits::whole(label))
    }

    async fn fingerprint(&self) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Never ends by itself.
    async fn read(&self, _: &Split, from: Option<&Position>) -> Result<BatchStream, Failure> {
        let from = from.map(Place::read).transpose()?;
        let (send, receive) = mpsc::channel(AHEAD);
        let at = self.followed.begin(from).await?;
        let rows = Rows::new(self.layout.clone(), self.limit, false);
        let most = FIRST.min(self.limit.rows).max(1);
        let reader = Reader {
            followed: Arc::clone(&self.followed),
            schema: self.layout.schema.clone(),
            rows,
            at,
            fresh: true,
            most,
            limit: self.limit,
            send,
            lease: None,
        };
        let task = tasks::start(reader.run());
        Ok(Box::pin(futures::stream::unfold((receive, task), |(mut receive, task)| async move {
            let chunk = receive.recv().await?;
            Some((chunk, (receive, task)))
        })))
    }

    async fn acknowledge(&self, position: &Position) -> Result<(), Failure> {
        let (place, followed) = (Place::read(position)?, &self.followed);
        if followed.spec.rows.shape == RowShape::List {
            return followed.script(DONE, &followed.keys[1..], place.count).await.map(drop);
        }
        let set = Command::new("XGROUP SETID").key(&followed.keys[0]).arg(followed.spec.name.as_str()).arg(place.id.as_str());
        let counts = followed.server.facts().await?.version >= COUNTS;
        let set = if counts { set.arg("ENTRIESREAD").arg(place.count) } else { set };
        match followed.server.call(&[set]).await?.pop().unwrap_or_default() {
            // The stream or the group is not there: the next read makes it.
            Value::ServerError(error)
                if error.code() == "NOGROUP" || error.details().is_some_and(|text| text.contains("requires the key")) =>
            {
                Ok(())
            }
            reply => good(reply).map(drop),
        }
    }
}

struct Reader {
    followed: Arc<Followed>,
    schema: Schema,
    rows: Rows,
    at: Place,
    /// Nothing was read yet.
    fresh: bool,
    /// How many rows the next question asks for, by the size of those before.
    most: usize,
    limit: BatchLimit,
    send: mpsc::Sender<Result<Chunk, Failure>>,
    /// A connection of its own, on which the server says that something is new.
    lease: Option<Lease>,
}

impl Reader {
    async fn run(mut self) {
        let closed = self.send.clone();
        loop {
            match self.page().await {
                Ok(true) => {}
                Ok(false) => tokio::select! {
                    () = closed.closed() => return,
                    () = self.wait() => {}
                },
                Err(failure) => {
                    // Nobody waits for the failure when the queue is closed.
                    let _ = self.send.send(Err(failure)).await;
                    return;
                }
            }
            if self.send.is_closed() {
                return;
            }
        }
    }

    /// Waits until something is new, or a while. What goes wrong here, the next question tells.
    async fn wait(&mut self) {
        let lease = match self.lease.take() {
            Some(lease) => Some(lease),
            None => self.followed.lend().await,
        };
        let (Some(mut lease), Some(command)) = (lease, self.followed.wakes(&self.at).await) else {
            return tokio::time::sleep(IDLE).await;
        };
        match lease.send(&[command]).await.map(|mut replies| replies.pop().map(good)) {
            Ok(Some(Ok(reply))) => {
                self.lease = Some(lease);
                if self.followed.spec.rows.shape == RowShape::List
                    && let Ok(Some(item)) = bytes(reply)
                {
                    self.followed.push(&mut self.rows, &mut self.at, &item);
                }
            }
            _ => tokio::time::sleep(IDLE).await,
        }
    }

    /// Hands on what is new. True when more is waiting.
    async fn page(&mut self) -> Result<bool, Failure> {
        let more = self.followed.next(&mut self.at, &mut self.rows, &mut self.fresh, self.most).await?;
        let empty = || Chunk::of(RecordBatch::new_empty(self.schema.to_arrow()));
        let mut chunk = self.rows.take()?.unwrap_or_else(empty);
        if let Some(average) = chunk.bytes.checked_div(chunk.batch.num_rows() as u64).filter(|_| chunk.batch.num_rows() > 0) {
            let fit = self.limit.bytes / usize::try_from(average).unwrap_or(usize::MAX).max(1);
            self.most = fit.clamp(1, AT_ONCE.min(self.limit.rows).max(1));
        }
        chunk.position = Some(self.at.position()?);
        let (ms, _) = number_of(&self.at.id);
        let behind_ms = (ms > 0).then(|| crate::clock::now_ms().unsigned_abs().saturating_sub(ms));
        chunk.lag = Some(Lag { caught_up: !more, behind_ms: if more { behind_ms } else { Some(0) }, bytes: None, kept: None });
        let _ = self.send.send(Ok(chunk)).await;
        Ok(more)
    }
}
