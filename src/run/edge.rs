//! Edges between the stages of a segment: bounded queues that know the difference between an end and a break.
//!
//! An edge into a stage that joins several stages spills to disk instead of blocking. Such a stage reads one input to its end before it
//! looks at the next; if both come from one producer, a bounded queue on the second would stop the producer, and with it the first.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use futures::stream;
use tokio::sync::mpsc;

use crate::data::{BatchStream, Chunk, Schema};
use crate::failure::Failure;

/// Batches that wait in a queue between two tasks.
pub const QUEUE: usize = 2;

/// Bytes that a spilling edge holds in memory before it writes to disk.
const SPILL_AFTER_BYTES: usize = 8 << 20;

enum Message {
    Batch(RecordBatch),
    End,
}

/// The producer's end of an edge.
pub struct EdgeSender(mpsc::Sender<Message>);

/// The consumer's end of an edge.
pub struct EdgeReceiver(mpsc::Receiver<Message>);

impl EdgeSender {
    /// Waits for room. A consumer that is gone is no failure of the producer: its own failure is reported by itself.
    pub async fn send(&self, batch: RecordBatch) {
        let _ = self.0.send(Message::Batch(batch)).await;
    }

    /// Says that everything was sent. An edge that is dropped without it is a break.
    pub async fn finish(self) {
        let _ = self.0.send(Message::End).await;
    }
}

impl EdgeReceiver {
    /// The batches, as a stage reads them. A break is a cancellation: the producer reports why.
    pub fn into_stream(self) -> BatchStream {
        Box::pin(stream::unfold(Some(self.0), |queue| async {
            let mut queue = queue?;
            match queue.recv().await {
                Some(Message::Batch(batch)) => Some((Ok(Chunk::of(batch)), Some(queue))),
                Some(Message::End) => None,
                None => Some((Err(Failure::cancelled()), None)),
            }
        }))
    }
}

/// An edge that holds up to [`QUEUE`] batches.
pub fn bounded() -> (EdgeSender, EdgeReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (EdgeSender(sender), EdgeReceiver(receiver))
}

/// An edge that takes every batch at once and keeps what the consumer has not read in memory up to a bound, then in a file below `folder`.
/// The second value moves the batches along and must be driven by a task; it fails when the disk does.
pub fn spilling(schema: &Schema, folder: &Path) -> (EdgeSender, EdgeReceiver, impl Future<Output = Result<(), Failure>> + Send + 'static) {
    let (sender, mut taken) = mpsc::channel(QUEUE);
    let (given, receiver) = mpsc::channel(QUEUE);
    let mut store = Store::new(schema.clone(), folder);
    let drive = async move {
        let mut ended = false;
        loop {
            tokio::select! {
                message = taken.recv(), if !ended => match message {
                    Some(Message::Batch(batch)) => store.push(batch)?,
                    Some(Message::End) => ended = true,
                    None => return Ok(()),
                },
                room = given.reserve(), if !store.is_empty() => match room {
                    Ok(room) => {
                        if let Some(batch) = store.pop()? {
                            room.send(Message::Batch(batch));
                        }
                    }
                    // The consumer is gone; its own task says why.
                    Err(_) => return Ok(()),
                },
                else => break,
            }
        }
        let _ = given.send(Message::End).await;
        Ok(())
    };
    (EdgeSender(sender), EdgeReceiver(receiver), drive)
}

/// A queue of batches: the oldest in memory, the rest in an unnamed file that the system removes with the process.
struct Store {
    schema: Schema,
    folder: std::path::PathBuf,
    memory: VecDeque<RecordBatch>,
    bytes: usize,
    disk: Option<Spill>,
}

struct Spill {
    writer: StreamWriter<BufWriter<File>>,
    reader: StreamReader<BufReader<File>>,
    waiting: usize,
}

impl Store {
    fn new(schema: Schema, folder: &Path) -> Self {
        Self { schema, folder: folder.to_owned(), memory: VecDeque::new(), bytes: 0, disk: None }
    }

    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.disk.as_ref().is_none_or(|disk| disk.waiting == 0)
    }

    fn push(&mut self, batch: RecordBatch) -> Result<(), Failure> {
        let spilled = self.disk.as_ref().is_some_and(|disk| disk.waiting > 0);
        if !spilled && (self.memory.is_empty() || self.bytes + batch.get_array_memory_size() <= SPILL_AFTER_BYTES) {
            self.bytes += batch.get_array_memory_size();
            self.memory.push_back(batch);
            return Ok(());
        }
        if self.disk.is_none() {
            self.disk = Some(Spill::new(&self.schema, &self.folder).map_err(failed)?);
        }
        let Some(disk) = &mut self.disk else { return Ok(()) };
        disk.writer.write(&batch).map_err(failed)?;
        disk.writer.get_mut().flush().map_err(failed)?;
        disk.waiting += 1;
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<RecordBatch>, Failure> {
        if let Some(batch) = self.memory.pop_front() {
            self.bytes -= batch.get_array_memory_size().min(self.bytes);
            return Ok(Some(batch));
        }
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.waiting > 0) else { return Ok(None) };
        disk.waiting -= 1;
        disk.reader.next().transpose().map_err(failed)
    }
}

impl Spill {
    fn new(schema: &Schema, folder: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("edge-{:016x}", fastrand::u64(..)));
        let file = File::options().create_new(true).read(true).write(true).open(&path)?;
        let read = File::open(&path)?;
        std::fs::remove_file(&path)?;
        let mut writer = StreamWriter::try_new(BufWriter::new(file), &schema.to_arrow())?;
        writer.get_mut().flush()?;
        Ok(Self { writer, reader: StreamReader::try_new(BufReader::new(read), None)?, waiting: 0 })
    }
}

fn failed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::permanent("failed to spill rows between stages to disk").cause(cause).help("free room in the project's `.haul` folder")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use futures::StreamExt;

    use super::*;
    use crate::data::{Column, Type};

    fn batch(schema: &Schema, number: i64) -> RecordBatch {
        let text = "x".repeat(1 << 20);
        RecordBatch::try_new(schema.to_arrow(), vec![Arc::new(Int64Array::from(vec![number])), Arc::new(StringArray::from(vec![text]))])
            .expect("a batch")
    }

    #[tokio::test]
    async fn a_spilling_edge_takes_everything_before_anything_is_read_and_keeps_the_order() {
        let schema = Schema { columns: vec![Column::new("id", Type::Int(64)), Column::new("text", Type::Text)] };
        let folder = tempfile::tempdir().expect("a folder");
        let (sender, receiver, drive) = spilling(&schema, folder.path());
        let driver = tokio::spawn(drive);
        for number in 0..40 {
            sender.send(batch(&schema, number)).await;
        }
        sender.finish().await;
        let mut stream = receiver.into_stream();
        for number in 0..40 {
            let chunk = stream.next().await.expect("a batch").expect("no failure");
            assert_eq!(chunk.batch, batch(&schema, number));
        }
        assert!(stream.next().await.is_none());
        driver.await.expect("no panic").expect("no failure");
    }

    #[tokio::test]
    async fn a_dropped_sender_is_a_break_and_not_an_end() {
        let (sender, receiver) = bounded();
        drop(sender);
        assert!(receiver.into_stream().next().await.expect("a message").is_err());
    }
}
