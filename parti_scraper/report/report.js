"use strict";
// Draws the charts, and lets people choose period and categories, sort and search. It requests nothing, and puts text
// into the page as text only.
(() => {
    const MOST_ROWS = 500;
    const page = JSON.parse(document.getElementById("data").textContent);
    const rows = Object.fromEntries(Object.entries(page.rows).map(([name, each]) => [name, unpacked(each)]));
    const views = {};
    // For tests: what is drawn, and of which rows.
    window.report = { views, rows, ready: false };

    function unpacked({ columns, texts, values }) {
        // A text is given once, and then by its number.
        return values.map((row) => Object.fromEntries(
            columns.map(([name, isText], place) => [name, isText && row[place] !== null ? texts[row[place]] : row[place]])));
    }

    function chosen() {
        const [since, until] = ["since", "until"].map((name) => Date.parse(document.getElementById(name)?.value));
        const picked = [...document.querySelectorAll("input[name=category]:checked")].map((box) => page.categories[box.value]);
        return {
            since: Number.isNaN(since) ? page.since : since,
            // The last day belongs to the period, the next one does not.
            until: (Number.isNaN(until) ? page.until : until) + 86399999,
            picked,
        };
    }

    function isChosen(row, { since, until, picked }) {
        const from = row.moment ?? row.since, to = row.moment ?? row.until;
        return (from === undefined || (from <= until && to >= since)) &&
            (row.category === undefined || picked.includes(row.category));
    }

    // --- Charts ---

    async function draw() {
        const choice = chosen();
        for (const [name, chart] of Object.entries(page.charts)) {
            const spec = { ...chart.spec, datasets: { [chart.rows]: rows[chart.rows].map((row) => ({ ...row })) } };
            spec.params = spec.params.map((each) => each.name in choice ? { ...each, value: choice[each.name] } : each);
            const result = await window.vegaEmbed(document.getElementById(`chart-${name}`), spec, {
                actions: false, ast: true, defaultStyle: false, renderer: "svg",
                // Only errors: that nothing is left to draw, when nothing is chosen, is none.
                logLevel: 1, tooltip: { disableDefaultStyle: true },
            });
            views[name] = result.view;
        }
        window.report.ready = true;
        document.body.dataset.ready = "";
    }

    async function choose() {
        const choice = chosen();
        await Promise.all(Object.values(views).map((view) => {
            Object.entries(choice).forEach(([name, value]) => view.signal(name, value));
            return view.runAsync();
        }));
        document.querySelectorAll("details[open][data-chart]").forEach(fill);
        document.querySelectorAll("table[data-sortable]").forEach(search);
    }

    // --- Figures of a chart, as a table ---

    function shown(value, name) {
        if (value === null || value === undefined) return "–";
        if (["moment", "since", "until"].includes(name)) return new Date(value).toISOString().slice(0, 16).replace("T", " ");
        if (typeof value === "number") return value.toLocaleString("en", { maximumFractionDigits: 2 });
        return typeof value === "boolean" ? (value ? "yes" : "no") : value;
    }

    function element(name, text, className) {
        const made = document.createElement(name);
        made.textContent = text;
        if (className) made.className = className;
        return made;
    }

    function fill(details) {
        const chart = page.charts[details.dataset.chart], columns = Object.entries(chart.columns);
        const choice = chosen(), all = rows[chart.rows].filter((row) => isChosen(row, choice));
        const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
        table.prepend(element("caption", all.length > MOST_ROWS
            ? `The first ${MOST_ROWS} of ${all.length.toLocaleString("en")} rows; times in UTC` : "Times in UTC"));
        columns.forEach(([, title]) => { head.append(Object.assign(element("th", title), { scope: "col" })); });
        for (const row of all.slice(0, MOST_ROWS)) {
            const line = body.insertRow();
            columns.forEach(([name]) => {
                const cell = element("td", "", typeof row[name] === "number" ? "number" : "text");
                cell.append(element("bdi", shown(row[name], name)));
                line.append(cell);
            });
        }
        details.querySelector(".scroll").replaceChildren(table);
    }

    // --- Tables of channels and livestreams ---

    function search(table) {
        const box = document.getElementById(`search-${table.id}`), words = box.value.toLowerCase().split(/\s+/);
        const choice = chosen(), lines = [...table.tBodies[0].rows];
        for (const line of lines) {
            const text = line.textContent.toLowerCase(), { category, moment } = line.dataset;
            const row = category === undefined ? {} : { category: page.categories[category], moment: Number(moment) };
            line.hidden = !(words.every((word) => text.includes(word)) && isChosen(row, choice));
        }
        const count = lines.filter((line) => !line.hidden).length;
        document.getElementById(`count-${table.id}`).textContent = `${count} of ${lines.length} shown`;
    }

    function sort(table, head) {
        const place = head.cellIndex, body = table.tBodies[0], lines = [...body.rows];
        const isNumber = head.classList.contains("number");
        // Numbers begin with the greatest, texts with the first.
        const first = isNumber ? "descending" : "ascending", other = isNumber ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        const value = (line) => line.cells[place].dataset.value;
        const sign = order === "ascending" ? 1 : -1;
        lines.sort((one, two) => {
            const [a, b] = [value(one), value(two)];
            // What is not known comes last in both orders.
            if (a === "" || b === "") return (a === "") - (b === "");
            return sign * (isNumber ? a - b : a.localeCompare(b, "en"));
        });
        [...table.tHead.rows[0].cells].forEach((cell) => cell.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        body.append(...lines);
    }

    function choosePreset(select) {
        const day = 86400000, text = (time) => new Date(time).toISOString().slice(0, 10);
        const last = Math.floor(page.until / day) * day, first = Math.floor(page.since / day) * day;
        const days = Number(select.value);
        document.getElementById("until").value = text(last);
        document.getElementById("since").value = text(days ? Math.max(first, last - (days - 1) * day) : first);
        choose();
    }

    document.querySelectorAll("details[data-chart]").forEach((each) => {
        each.addEventListener("toggle", () => { if (each.open) fill(each); });
    });
    document.querySelectorAll("table[data-sortable]").forEach((table) => {
        document.getElementById(`search-${table.id}`).addEventListener("input", () => search(table));
        table.tHead.addEventListener("click", (event) => {
            const head = event.target.closest("th");
            if (head) sort(table, head);
        });
        search(table);
    });
    document.querySelectorAll(".choice input").forEach((each) => each.addEventListener("change", choose));
    document.getElementById("preset")?.addEventListener("change", (event) => choosePreset(event.target));
    document.getElementById("every")?.addEventListener("click", () => {
        const boxes = [...document.querySelectorAll("input[name=category]")], isAll = boxes.every((box) => box.checked);
        boxes.forEach((box) => { box.checked = !isAll; });
        choose();
    });
    draw();
})();
