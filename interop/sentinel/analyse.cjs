// Analyses KQL against tables: reads {tables: {name: schema}, texts: {name: KQL}} on standard input, and
// prints the errors that Microsoft's own parser finds, by name.
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");

const language = Kusto.Language;
const { tables, texts } = JSON.parse(require("fs").readFileSync(0, "utf-8"));
const symbols = Object.entries(tables).map(([name, schema]) =>
  language.Symbols.TableSymbol.From(schema).WithName(name),
);
const database = new language.Symbols.DatabaseSymbol.ctor("workspace", symbols);
const globals = language.GlobalState.Default.WithDatabase(database);
const found = {};
for (const [name, text] of Object.entries(texts)) {
  const diagnostics = language.KustoCode.ParseAndAnalyze(text, globals).GetDiagnostics();
  found[name] = [];
  for (let each = 0; each < diagnostics.Count; each++) {
    found[name].push(diagnostics.getItem(each).Message);
  }
}
process.stdout.write(JSON.stringify(found));
