//! Which steps compute with a column of a type that only its own engine understands.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Select, SelectItem, Statement, Visit, Visitor};

use super::sql::{self, Aliases, Names};
use crate::define::pipeline::{self, Mask, Step};

/// Whether a step computes with a column, and does more than carry it along. Then the column has to come in its text form: its bytes mean
/// something to its engine only.
pub fn computes(steps: &[Step], column: &str) -> bool {
    let mut uses = Uses { names: vec![column.to_owned()], computed: 0 };
    steps.iter().any(|step| uses.step(step))
}

/// The names a column has by now, and how often something is computed with it.
struct Uses {
    names: Vec<String>,
    computed: isize,
}

impl Uses {
    fn named(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Whether an expression is nothing but the column.
    fn is_column(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Identifier(name) => self.named(&name.value),
            Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|name| self.named(&name.value)),
            _ => false,
        }
    }

    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Filter(expr) => self.expression(expr, None),
            Step::Set(columns) => columns.iter().any(|(name, expr)| self.expression(expr, Some(name))),
            Step::Cast(casts) => casts.iter().any(|(name, ..)| self.named(name)),
            Step::Mask(masks) => masks.iter().any(|(name, mask, _)| matches!(mask, Mask::Hash { .. }) && self.named(name)),
            Step::Lookup(lookup) => lookup.on.iter().any(|(_, name, _)| self.named(name)),
            Step::Sql(query) => self.query(query),
            Step::Rename(renames) => {
                let new: Vec<String> = renames.iter().filter(|(old, ..)| self.named(old)).map(|(_, new, _)| new.clone()).collect();
                self.names.extend(new);
                false
            }
            // Equal bytes are equal values.
            Step::Select(_) | Step::Drop(_) | Step::Dedupe { .. } => false,
        }
    }

    /// What does not parse is reported where it is compiled.
    fn expression(&mut self, expr: &pipeline::Expr, set: Option<&String>) -> bool {
        let Ok((expr, _)) = sql::expression(&expr.sql, &Names::default()) else { return false };
        if self.is_column(&expr)
            && let Some(name) = set
        {
            self.names.push(name.clone());
            return false;
        }
        let _ = expr.visit(self);
        self.computed > 0
    }

    fn query(&mut self, query: &pipeline::Expr) -> bool {
        let Ok((query, _)) = sql::query(&query.sql, &Names::default(), Aliases::Win) else { return false };
        // A query computes with what a query inside of it names.
        loop {
            let known = self.names.len();
            self.computed = 0;
            let _ = Statement::visit(&query, self);
            if self.names.len() == known {
                return self.computed > 0;
            }
        }
    }
}

impl Visitor for Uses {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) if self.is_column(expr) => self.computed -= 1,
                SelectItem::ExprWithAlias { expr, alias } if self.is_column(expr) => {
                    self.computed -= 1;
                    if !self.named(&alias.value) {
                        self.names.push(alias.value.clone());
                    }
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::IsNull(inner) | Expr::IsNotNull(inner) if self.is_column(inner) => self.computed -= 1,
            _ if self.is_column(expr) => self.computed += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Type;
    use crate::secret::Secret;

    fn expr(sql: &str) -> pipeline::Expr {
        pipeline::Expr { sql: sql.to_owned(), written: None, at: String::new() }
    }

    fn set(name: &str, sql: &str) -> Step {
        Step::Set(vec![(name.to_owned(), expr(sql))])
    }

    fn cast(name: &str) -> Step {
        Step::Cast(vec![(name.to_owned(), Type::Text, String::new())])
    }

    #[test]
    fn what_carries_a_column_along_computes_nothing() {
        let rename = Step::Rename(vec![("ip".to_owned(), "address".to_owned(), String::new())]);
        for steps in [
            vec![Step::Select(vec![("ip".to_owned(), String::new())]), rename.clone()],
            vec![Step::Filter(expr("ip is not null and id > 1")), set("copy", "ip"), cast("id")],
            vec![Step::Sql(expr("select a.ip, ip as copy, id + 1 as id from (select * from input) a where ip is not null"))],
            vec![
                Step::Mask(vec![("ip".to_owned(), Mask::Null, String::new())]),
                Step::Dedupe { key: vec!["ip".to_owned()], at: String::new() },
            ],
        ] {
            assert!(!computes(&steps, "ip"), "{steps:?}");
        }
        let hash = Mask::Hash { salt: Secret::new("salt".to_owned()) };
        for steps in [
            vec![cast("IP")],
            vec![Step::Mask(vec![("ip".to_owned(), hash, String::new())])],
            vec![rename, cast("address")],
            vec![set("copy", "ip"), cast("copy")],
            vec![set("shown", "cast(ip as text)")],
            vec![Step::Filter(expr("ip = '10.0.0.1'"))],
            vec![Step::Sql(expr("select ip, upper(other) as other from (select ip as other, ip from input) as a"))],
            vec![Step::Sql(expr("select ip from input order by ip"))],
        ] {
            assert!(computes(&steps, "ip"), "{steps:?}");
        }
    }
}
