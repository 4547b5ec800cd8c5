//! What is read, what is guessed, and what is refused.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use futures::StreamExt;
use haul::connectors::{ReadRequest, Source, SplitGoal};
use haul::data::{BatchLimit, Type};
use haul::define::pipeline::{CsvDialect, FileFormat, FilesSource};
use haul::failure::{Failure, FailureKind};

use super::{Folder, csv, from, root, to};
use crate::support::loads;

#[tokio::test]
async fn real_flights_have_real_types() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data");
    let root = root("file:.", &base).expect("a folder's URL");
    let na = CsvDialect { null: vec![String::new(), "NA".to_owned()], ..csv() };
    let check = async |path: &str, rows: usize, types: &[(&str, &str)]| {
        let source = root.source(&FilesSource { format: FileFormat::Csv(na.clone()), ..from(path) });
        let described = source.describe().await.expect(path);
        for (name, ty) in types {
            let (_, column) = described.schema.find(name).expect(name);
            assert_eq!(column.ty.to_string(), *ty, "{path}: {name}");
        }
        let (batch, rejects) = loads::read(&source, ReadRequest::default(), 64).await.expect(path);
        assert_eq!(rejects, [], "{path}");
        assert_eq!(batch.num_rows(), rows, "{path}");
        let estimate = described.rows.expect("an estimate");
        assert!(estimate.abs_diff(rows as u64) * 4 < rows as u64, "{path}: {estimate} rows were expected");
    };
    let flights = [("dep_time", "int64"), ("carrier", "text"), ("tailnum", "text"), ("time_hour", "timestamptz")];
    check("flights-2013-0*.csv.gz", 80_789, &flights).await;
    check("weather.csv.gz", 6463, &[("temp", "decimal(18,2)"), ("wind_dir", "int64"), ("time_hour", "timestamptz")]).await;
    check("planes.csv", 3322, &[("year", "int64"), ("seats", "int64"), ("speed", "int64"), ("engine", "text")]).await;
    check("airports.csv", 3364, &[("iata", "text"), ("latitude", "decimal(18,8)")]).await;
    check("airlines.csv", 16, &[("name", "text")]).await;
}

/// Reads a source whole: its columns and their types, its rows as JSON, its rejects as `origin: reason | row`.
async fn seen(source: &Arc<dyn Source>) -> Result<(String, Vec<String>, Vec<String>), Failure> {
    let described = source.describe().await?;
    let types: Vec<String> = described.schema.columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
    let (batch, rejects) = loads::read(source, ReadRequest::default(), 64).await?;
    let rows = (0..batch.num_rows()).map(|row| {
        let values = batch
            .columns()
            .iter()
            .map(|array| if array.is_null(row) { "NULL".to_owned() } else { array_value_to_string(array, row).expect("a value") });
        values.collect::<Vec<_>>().join("|")
    });
    let rejects = rejects.iter().map(|reject| format!("{}: {} | {}", reject.origin, reject.reason, reject.row));
    Ok((types.join(", "), rows.collect(), rejects.collect()))
}

#[tokio::test]
async fn csv_tells_null_from_text_and_refuses_ragged_rows() {
    let folder = Folder::new();
    folder.file("x.csv", "id,name,note\r\n1,,\"\"\r\n2,\"a\r\nb\",\"say \"\"hi\"\"\"\r\n\r\n3,x\r\n4,x,y,z\r\n5,\"x\"y,z\r\n6,last,row");
    let (types, rows, rejects) = seen(&folder.source(from("x.csv"))).await.expect("rows");
    assert_eq!(types, "id int64, name text, note text");
    assert_eq!(rows, ["1|NULL|", "2|a\r\nb|say \"hi\"", "6|last|row"]);
    assert_eq!(
        rejects,
        [
            "x.csv:6: 2 fields where the header has 3 | 3,x",
            "x.csv:7: 4 fields where the header has 3 | 4,x,y,z",
            "x.csv:8: there is text after a closing quote | 5,\"x\"y,z",
        ]
    );
}

#[tokio::test]
async fn dialects_and_null_words() {
    let folder = Folder::new();
    folder.file("x.csv", "1;NA;'NA'\n2;;'it\\'s; so'\n");
    let dialect =
        CsvDialect { delimiter: b';', quote: Some(b'\''), escape: Some(b'\\'), header: false, null: vec!["NA".to_owned()], ..csv() };
    let source = folder.source(FilesSource { format: FileFormat::Csv(dialect), ..from("x.csv") });
    let (types, rows, rejects) = seen(&source).await.expect("rows");
    assert_eq!(types, "column_1 int64, column_2 text, column_3 text");
    assert_eq!(rows, ["1|NULL|NA", "2||it's; so"]);
    assert!(rejects.is_empty());
    // Empty lines are rows where there is one column, in front of the first value as well.
    for (text, expected) in [("\n\r\n1\n\n2\n", vec!["NULL", "NULL", "1", "NULL", "2"]), ("\n1,2\n", vec!["1|2"])] {
        folder.file("x.csv", text);
        let source = folder.source(FilesSource { format: FileFormat::Csv(CsvDialect { header: false, ..csv() }), ..from("x.csv") });
        assert_eq!(seen(&source).await.expect("rows").1, expected);
    }
}

#[tokio::test]
async fn encodings_and_bytes_that_are_wrong() {
    let folder = Folder::new();
    folder.file("w.csv", b"n\ncaf\xe9\n\x80uro\n");
    folder.file("u.csv", b"\xEF\xBB\xBFn\ngood\ncaf\xe9\nend\n");
    folder.file("utf16.csv", "\u{FEFF}n\né\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    let windows = FilesSource { format: FileFormat::Csv(CsvDialect { encoding: "windows-1252".to_owned(), ..csv() }), ..from("w.csv") };
    assert_eq!(seen(&folder.source(windows)).await.expect("rows").1, ["café", "€uro"]);
    let (_, rows, rejects) = seen(&folder.source(from("u.csv"))).await.expect("rows");
    assert_eq!(rows, ["good", "end"]);
    assert_eq!(rejects, ["u.csv:3: the line is not utf-8 | caf\u{FFFD}"]);
    assert_eq!(seen(&folder.source(from("utf16.csv"))).await.expect("rows").1, ["é"]);
}

#[tokio::test]
async fn a_value_beyond_the_sample_is_refused_with_the_way_out() {
    let folder = Folder::new();
    folder.file("x.csv", "id,price\n1,1.50\n2,2.25\n3,n/a\n007,1.00\n5,1.505\n6,4.00\n");
    let spec = FilesSource { sample: 2, ..from("x.csv") };
    let (types, rows, rejects) = seen(&folder.source(spec.clone())).await.expect("rows");
    assert_eq!(types, "id int64, price decimal(18,2)");
    assert_eq!(rows, ["1|1.50", "2|2.25", "6|4.00"]);
    assert_eq!(rejects.len(), 3);
    let way_out = "declare `columns: { price: text }`, or raise `sample` so that the type is guessed from more rows";
    assert_eq!(rejects[0], format!("x.csv:4: column `price`: the value `n/a` is no decimal(18,2); {way_out} | 3,n/a"));
    assert!(rejects[1].starts_with("x.csv:5: column `id`: the value `007` is no int64"), "{}", rejects[1]);
    assert!(rejects[2].contains("`1.505` has more digits after the point than decimal(18,2)"), "{}", rejects[2]);
    // Declared, everything is read.
    let columns = [("price".to_owned(), Type::Text), ("id".to_owned(), Type::Int(32))].into();
    let (types, rows, rejects) = seen(&folder.source(FilesSource { columns, ..spec })).await.expect("rows");
    assert_eq!(types, "id int32, price text");
    assert_eq!((rows.len(), rejects.len()), (6, 0));
}

#[tokio::test]
async fn broken_headers_and_files_are_said_to_be() {
    let folder = Folder::new();
    folder.file("twice.csv", "a,b,a\n").file("unnamed.csv", "a,,c\n").file("empty.csv", "").file("cut.csv.gz", b"\x1f\x8b\x08\x00");
    folder.file("plain.csv.gz", "a,b\n1,2\n").file("x.parquet", "no parquet").file("a/1.csv", "x,y\n1,2\n").file("a/2.csv", "y,z\n1,2\n");
    for (path, expected) in [
        ("twice.csv", "names the column `a` twice"),
        ("unnamed.csv", "column 2 of the header has no name"),
        ("empty.csv", "it has no header line"),
        ("cut.csv.gz", "cannot read `cut.csv.gz`"),
        ("plain.csv.gz", "cannot read `plain.csv.gz`"),
        ("x.parquet", "cannot read `x.parquet`"),
        ("a/*.csv", "`a/1.csv` has the column `x`, and `a/2.csv` has not"),
        ("none.csv", "there is no file `none.csv`"),
        ("none-*.csv", "`none-*.csv` matches no file"),
        ("../x.csv", "a path only leads down"),
        ("/etc/passwd", "absolute"),
        ("[.csv", "is not a pattern"),
    ] {
        let failure = seen(&folder.source(from(path))).await.expect_err(path);
        assert_eq!(failure.kind, FailureKind::Permanent, "{failure}");
        assert!(failure.to_string().contains(expected), "{path}: {failure}");
    }
    let columns = [("b".to_owned(), Type::Text)].into();
    let failure = seen(&folder.source(FilesSource { columns, ..from("a/1.csv") })).await.expect_err("an unknown column");
    assert!(failure.message.contains("no column `b`") && failure.help.as_deref() == Some("its columns are x, y"), "{failure}");
}

#[cfg(unix)]
#[tokio::test]
async fn links_that_leave_the_root_are_refused() {
    let outside = Folder::new();
    outside.file("secret.csv", "a\n1\n");
    let folder = Folder::new();
    folder.file("in.csv", "a\n1\n");
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, folder.folder.path().join(to)).expect("a link");
    link(&outside.folder.path().join("secret.csv"), "out.csv");
    link(outside.folder.path(), "out");
    link(&folder.folder.path().join("in.csv"), "again.csv");
    for path in ["out.csv", "out/secret.csv", "out/*.csv", "*.csv"] {
        let failure = seen(&folder.source(from(path))).await.expect_err(path);
        assert!(failure.message.contains("by a symbolic link"), "{path}: {failure}");
    }
    assert_eq!(seen(&folder.source(from("again.csv"))).await.expect("a link inside").1, ["1"]);
    let (schema, batch) = loads::ids(0..2, "x");
    for path in ["out/new.csv", "again.csv", "out/"] {
        let problems = folder.sink(to(path)).plan(&schema).await.expect("a plan").expect_err(path);
        assert!(problems[0].code == "target-path" && problems[0].message.contains("symbolic link"), "{path}: {problems:?}");
        let failure = loads::load(&folder.sink(to(path)), "run 1", &schema, &batch).await.expect_err(path);
        assert!(failure.message.contains("symbolic link"), "{path}: {failure}");
    }
    assert_eq!(outside.all(), ["secret.csv"]);
}

#[tokio::test]
async fn ndjson_keeps_values_as_they_are_written() {
    let folder = Folder::new();
    folder.file(
        "x.ndjson",
        concat!(
            r#"{"id":1,"big":12345678901234567890,"price":1.10,"at":"2024-01-01T10:00:00Z","tags":[1, 2.0],"mixed":1,"ok":true}"#,
            "\n\n",
            r#"{"id":2,"big":1,"price":2,"at":null,"tags":{"b" : 1.50,"a":null},"mixed":"x","name":"caf\u00e9"}"#,
            "\n",
            r#"{"name":"only"}"#,
            "\n",
        ),
    );
    let (types, rows, rejects) = seen(&folder.source(from("x.ndjson"))).await.expect("rows");
    assert_eq!(types, "id int64, big decimal(38,0), price decimal(18,2), at timestamptz, tags json, mixed json, ok bool, name text");
    assert_eq!(
        rows,
        [
            "1|12345678901234567890|1.10|2024-01-01T10:00:00Z|[1, 2.0]|1|true|NULL",
            "2|1|2.00|NULL|{\"b\" : 1.50,\"a\":null}|\"x\"|NULL|café",
            "NULL|NULL|NULL|NULL|NULL|NULL|NULL|only",
        ]
    );
    assert!(rejects.is_empty());
    folder.file("bad.ndjson", "{\"id\":1}\n{\"id\":2,\"new\":3}\nnot json\n[1]\n{\"id\":\"x\"}\n{\"id\":3,\"id\":4}\n{\"id\":5}\n");
    let (_, rows, rejects) = seen(&folder.source(FilesSource { sample: 1, ..from("bad.ndjson") })).await.expect("rows");
    assert_eq!(rows, ["1", "5"]);
    let starts = ["bad.ndjson:2: unknown key `new`", "bad.ndjson:3: the line is not JSON", "bad.ndjson:4: the line is not a JSON object"];
    for (reject, start) in rejects.iter().zip(starts) {
        assert!(reject.starts_with(start), "{reject}");
    }
    assert!(rejects[3].starts_with("bad.ndjson:5: column `id`: the value `\"x\"` is a string, and the column is int64"), "{}", rejects[3]);
    assert!(rejects[4].starts_with("bad.ndjson:6: the key `id` stands twice"), "{}", rejects[4]);
}

#[tokio::test]
async fn columns_are_projected_and_splits_grouped() {
    let folder = Folder::new();
    for place in 0..7 {
        folder.file(&format!("d/{place}.csv"), if place % 2 == 0 { format!("a,b\n{place},x\n") } else { format!("b,a\nx,{place}\n") });
    }
    folder.file("d/.hidden.csv", "no").file("d/deep/8.csv", "a,b\n8,x\n");
    let source = folder.source(from("d/*.csv"));
    let request = ReadRequest { columns: Some(vec!["b".to_owned(), "a".to_owned()]), ..ReadRequest::default() };
    let reading = source.open(request).await.expect("a view");
    let names: Vec<&str> = reading.schema().columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    for (most, expected) in [(1, 1), (3, 3), (64, 7)] {
        let splits = reading.splits(SplitGoal { most, bytes: 100 }).await.expect("splits");
        assert_eq!(splits.splits.len(), expected);
        assert_eq!(splits.splits[0].id, if most == 1 { "all" } else { "0000" });
        let mut found = Vec::new();
        for split in &splits.splits {
            // A split survives being recorded.
            let split = serde_json::from_str(&serde_json::to_string(split).expect("JSON")).expect("a split");
            let (batch, _) = loads::drain(reading.schema(), reading.read(&split, None).await.expect("a stream")).await.expect("rows");
            found.extend(batch.column(1).as_primitive::<Int64Type>().values().iter().copied());
        }
        assert_eq!(found, (0..7).collect::<Vec<i64>>());
    }
    assert_eq!(seen(&folder.source(from("d/**/*.csv"))).await.expect("rows").1.len(), 8);
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let folder = Folder::new();
    folder.file("x.csv", "a\n1\n");
    let reading = folder.source(from("x.csv")).open(ReadRequest::default()).await.expect("a view");
    let splits = reading.splits(SplitGoal { most: 4, bytes: 1 }).await.expect("splits");
    assert_eq!(reading.fingerprint().await.expect("a fingerprint"), splits.fingerprint);
    folder.file("x.csv", "a\n12\n");
    assert_ne!(reading.fingerprint().await.expect("a fingerprint"), splits.fingerprint);
    let failure =
        loads::drain(reading.schema(), reading.read(&splits.splits[0], None).await.expect("a stream")).await.expect_err("a changed file");
    assert!(failure.message.contains("has changed"), "{failure}");
}

#[tokio::test]
async fn foreign_parquet_is_brought_into_form_or_refused() {
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array, LargeStringArray, StructArray, TimestampNanosecondArray};
    let folder = Folder::new();
    let write = |path: &str, columns: Vec<(&str, ArrayRef)>| {
        let batch =
            arrow::record_batch::RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
        let batch = batch.expect("a batch");
        let file = std::fs::File::create(folder.folder.path().join(path)).expect("a file");
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("rows");
        writer.close().expect("a footer");
    };
    let words: DictionaryArray<arrow::datatypes::Int32Type> = vec!["a", "b", "a"].into_iter().collect();
    write(
        "x.parquet",
        vec![
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(1000), Some(1001), None]).with_timezone("Europe/Berlin")) as ArrayRef),
            ("word", Arc::new(words)),
            ("long", Arc::new(LargeStringArray::from(vec!["x", "y", "z"]))),
        ],
    );
    let (types, rows, rejects) = seen(&folder.source(from("x.parquet"))).await.expect("rows");
    assert_eq!(types, "at timestamptz, word text, long text");
    assert_eq!(rows, ["1970-01-01T00:00:00.000001Z|a|x", "NULL|a|z"]);
    assert_eq!(rejects.len(), 1);
    assert!(
        rejects[0].starts_with("x.parquet:row 2: column `at`: the value") && rejects[0].contains("finer than a microsecond"),
        "{}",
        rejects[0]
    );
    let fields =
        vec![(Arc::new(arrow::datatypes::Field::new("n", DataType::Int64, true)), Arc::new(Int64Array::from(vec![1])) as ArrayRef)];
    write("nested.parquet", vec![("point", Arc::new(StructArray::from(fields)) as ArrayRef)]);
    let failure = seen(&folder.source(from("nested.parquet"))).await.expect_err("a struct");
    assert!(failure.message.contains("`nested.parquet`: column `point` has the Arrow type Struct"), "{failure}");
}

#[tokio::test]
async fn a_large_file_of_text_is_read_in_parts_as_if_it_was_read_whole() {
    let folder = Folder::new();
    let text = |id: usize| match id % 7 {
        0 => "plain".to_owned(),
        1 => format!("\"quoted, {id}\"\"\n\nin lines\""),
        2 => "żółć 🦀".to_owned(),
        _ => String::new(),
    };
    let row = |id: usize| if id % 500 == 499 { format!("{id},too,many\n") } else { format!("{id},{}\n", text(id)) };
    folder.file("t.csv", format!("\u{feff}id,text\n{}", (0..5000).map(row).collect::<String>()));
    let object = |id: usize| if id % 500 == 499 { format!("{{\"id\": {id}, \"odd\": 1}}\n") } else { format!("\n{{\"id\": {id}}}\r\n") };
    folder.file("t.ndjson", (0..5000).map(object).collect::<String>());
    for (path, format) in [("t.csv", FileFormat::Csv(csv())), ("t.ndjson", FileFormat::Ndjson)] {
        let source = folder.source(FilesSource { format, sample: 100, ..from(path) });
        let whole = loads::read(&source, ReadRequest::default(), 1).await.expect(path);
        assert_eq!((whole.0.num_rows(), whole.1.len()), (4990, 10), "{path}");
        for most in [2, 3, 16, 1000] {
            let reading = source.open(ReadRequest::default()).await.expect(path);
            let splits = reading.splits(SplitGoal { most, bytes: 1 }).await.expect(path).splits;
            assert!(splits.len() > most / 2 && splits.len() <= most, "{path}: {} splits of {most}", splits.len());
            let parts = loads::read(&source, ReadRequest::default(), most).await.expect(path);
            assert_eq!(parts, whole, "{path} in {most}: the same rows in the same order, and the same lines refused");
        }
        let reading = source.open(ReadRequest::default()).await.expect(path);
        let few = reading.splits(SplitGoal { most: 16, bytes: 1 << 30 }).await.expect(path).splits;
        assert_eq!(few.len(), 1, "{path}: a small file stays whole");
    }
    // What cannot be looked through as it lies stays whole.
    folder.file("wide.csv", [&[0xff, 0xfe][..], &"id\n1\n2\n3\n".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()].concat());
    let reading = folder.source(from("wide.csv")).open(ReadRequest::default()).await.expect("UTF-16");
    assert_eq!(reading.splits(SplitGoal { most: 4, bytes: 1 }).await.expect("splits").splits.len(), 1);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_an_error() {
    let lines = |line: &dyn Fn(u32) -> String| (0..5000).map(|id| line(id) + "\n").collect::<String>();
    let csv = format!("id\n{}", lines(&|id| id.to_string()));
    let ndjson = lines(&|id| format!("{{\"id\": {id}}}"));
    for (path, text) in [("x.csv", csv), ("x.ndjson", ndjson)] {
        let folder = Folder::new();
        folder.file(path, &text);
        let source = folder.source(from(path));
        let limit = BatchLimit { rows: 100, ..BatchLimit::default() };
        let reading = source.open(ReadRequest { limit, ..ReadRequest::default() }).await.expect("a reading");
        let split = reading.splits(SplitGoal { most: 1, bytes: 1 }).await.expect("splits").splits.remove(0);
        let mut rows = reading.read(&split, None).await.expect("a stream");
        rows.next().await.expect("a chunk").expect("rows");
        folder.file(path, format!("{text}{}", text.lines().last().expect("a line")));
        let failure = loads::drain(reading.schema(), rows).await.expect_err("another file by now");
        assert!(failure.message.contains("has changed"), "{failure}");
        assert_eq!(failure.kind, FailureKind::Permanent);
    }
}
