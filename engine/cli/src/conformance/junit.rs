//! The results in the form that build servers read.

use hetero_conformance::Outcome;

/// Returns the results of a device as JUnit XML.
pub(super) fn junit(device: &str, records: &[(String, Outcome)]) -> String {
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
        text.chars().filter(|c| !c.is_control()).collect::<String>()
    };
    let failures = records.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count();
    let skipped = records.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Unclaimed(_))).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"conformance {device}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\">\n",
        records.len()
    );
    for (name, outcome) in records {
        let class = name.split(' ').next().unwrap_or_default();
        text.push_str(&format!("  <testcase classname=\"{}\" name=\"{}\"", escaped(class), escaped(name)));
        text.push_str(&match outcome {
            Outcome::Passed(_) => "/>\n".to_owned(),
            Outcome::Unclaimed(reason) => {
                let reason = reason.as_deref().unwrap_or("the device does not claim it");
                format!("><skipped message=\"{}\"/></testcase>\n", escaped(reason))
            }
            Outcome::Failed(reason) => format!("><failure message=\"{}\"/></testcase>\n", escaped(reason)),
        });
    }
    text.push_str("</testsuite>\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_escape_what_xml_forbids() {
        let records = [("Add <1>".into(), Outcome::Failed("a & \"b\"".into())), ("Mul".into(), Outcome::Passed(0.0))];
        let text = junit("cpu:0", &records);
        assert!(text.contains("tests=\"2\" failures=\"1\" skipped=\"0\""));
        assert!(text.contains("name=\"Add &lt;1&gt;\"><failure message=\"a &amp; &quot;b&quot;\"/>"));
    }
}
