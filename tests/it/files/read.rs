//! What is read, what is guessed, and what is refused.

use std::path::Path;

use haul::connectors::ReadRequest;
use haul::define::pipeline::{CsvDialect, FileFormat, FilesSource};

use super::{csv, from, root};
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
