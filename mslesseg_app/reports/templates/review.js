'use strict';
(() => {
  // Marks of exams: set by buttons or keys, kept in the browser, saved as a table.
  const section = document.getElementById('review');
  if (!section) return;
  const table = section.querySelector('table.review');
  const body = table.tBodies[0];
  const said = section.querySelector('#review-said');
  const filter = section.querySelector('#review-filter');
  const letters = {a: 'accept', r: 'redo', x: 'exclude', u: ''};
  const place = `mslesseg review ${section.dataset.folder} ${location.pathname}`;
  const nameOf = (row) => `${row.dataset.participant} ${row.dataset.session}`.trim();
  const rows = () => [...body.rows];
  const shown = () => rows().filter((row) => !row.hidden);
  const noteOf = (row) => row.querySelector('.note input').value.trim();
  const now = () => new Date().toISOString().replace(/\.\d+Z$/, 'Z');

  const load = () => {
    try {
      return JSON.parse(localStorage.getItem(place)) || {};
    } catch {
      return {};
    }
  };
  const kept = load();
  const keep = (row) => {
    kept[nameOf(row)] = {
      mark: row.dataset.mark, marked: row.dataset.marked, note: noteOf(row),
    };
    try {
      localStorage.setItem(place, JSON.stringify(kept));
    } catch {
      said.textContent = 'This browser keeps nothing: save the marks before you leave.';
    }
  };

  const count = () => {
    const all = rows();
    const done = all.filter((row) => row.dataset.mark && row.dataset.mark !== 'redone').length;
    section.querySelector('#review-count').textContent = `${done} of ${all.length} marked`;
  };
  const passes = (row) => {
    const mark = row.dataset.mark;
    if (filter.value === 'open') return !mark || mark === 'redone';
    if (filter.value === 'flagged') return 'flagged' in row.dataset;
    return filter.value === 'all' || mark === filter.value;
  };
  const refresh = (row) => {
    row.querySelector('.said').textContent = row.dataset.mark;
    for (const button of row.querySelectorAll('.marks button')) {
      button.setAttribute('aria-pressed', String(button.value === row.dataset.mark));
    }
  };
  const mark = (row, value) => {
    row.dataset.mark = value;
    row.dataset.marked = now();
    refresh(row);
    keep(row);
    count();
    said.textContent = `${nameOf(row)}: ${value || 'no mark'}`;
  };

  let current = null;
  const choose = (row, focus = true) => {
    if (!row) return;
    if (current) current.tabIndex = -1;
    current = row;
    row.tabIndex = 0;
    if (focus) {
      row.focus({preventScroll: true});
      row.scrollIntoView({block: 'nearest'});
    }
  };
  const step = (row, by) => {
    const list = shown();
    choose(list[list.indexOf(row) + by]);
  };
  const line = (row, by) => {
    if (!table.classList.contains('gallery')) return step(row, by);
    const list = shown();
    const here = row.getBoundingClientRect();
    const next = (by > 0 ? list : list.reverse()).find((other) => {
      const box = other.getBoundingClientRect();
      return by * (box.top - here.top) > 4 && Math.abs(box.left - here.left) < 4;
    });
    choose(next);
  };

  for (const row of rows()) {
    row.tabIndex = -1;
    row.setAttribute('aria-keyshortcuts', 'A R X U N ArrowDown ArrowUp');
    const marks = document.createElement('div');
    marks.className = 'marks';
    marks.setAttribute('role', 'group');
    marks.setAttribute('aria-label', `Mark of ${nameOf(row)}`);
    for (const value of ['accept', 'redo', 'exclude']) {
      const button = document.createElement('button');
      button.type = 'button';
      button.value = button.textContent = value;
      button.tabIndex = -1;
      button.addEventListener('click', () => {
        choose(row, false);
        mark(row, row.dataset.mark === value ? '' : value);
      });
      marks.append(button);
    }
    row.querySelector('.mark').append(marks);
    const note = document.createElement('input');
    note.type = 'text';
    note.tabIndex = -1;
    note.maxLength = 300;
    note.placeholder = 'note';
    note.setAttribute('aria-label', `Note on ${nameOf(row)}`);
    note.value = row.querySelector('.note').textContent.trim();
    note.addEventListener('change', () => {
      row.dataset.marked = now();
      keep(row);
    });
    row.querySelector('.note').replaceChildren(note);
    const known = kept[nameOf(row)];
    if (known && known.marked > row.dataset.marked) {
      row.dataset.mark = known.mark;
      row.dataset.marked = known.marked;
      note.value = known.note;
    }
    refresh(row);
    row.addEventListener('focus', () => choose(row, false));
  }
  table.classList.add('live');

  section.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const row = event.target.closest('table.review tbody tr');
    if (!row) return;
    if (event.target.tagName === 'INPUT') {
      if (event.key === 'Escape' || event.key === 'Enter') {
        event.target.blur();
        choose(row);
      }
      return;
    }
    const key = event.key.toLowerCase();
    const moves = {
      arrowdown: () => line(row, 1), arrowup: () => line(row, -1),
      arrowright: () => step(row, 1), arrowleft: () => step(row, -1),
      j: () => step(row, 1), k: () => step(row, -1),
      home: () => choose(shown()[0]), end: () => choose(shown().at(-1)),
      n: () => row.querySelector('.note input').focus(),
    };
    if (key in letters) {
      mark(row, letters[key]);
      if (letters[key]) step(row, 1);
    } else if (key in moves) {
      moves[key]();
    } else {
      return;
    }
    event.preventDefault();
  });

  filter.addEventListener('change', () => {
    for (const row of rows()) row.hidden = !passes(row);
    choose(shown()[0], false);
    said.textContent = `${shown().length} shown`;
  });
  section.querySelector('#review-gallery').addEventListener('change', (event) => {
    table.classList.toggle('gallery', event.target.checked);
  });

  const clean = (text) => text.replace(/\s+/g, ' ').trim() || 'n/a';
  const content = () => {
    const lines = [['participant_id', 'session_id', 'mark', 'marked', 'note']];
    const sorted = rows().sort((one, two) => (nameOf(one) < nameOf(two) ? -1 : 1));
    for (const row of sorted) {
      const {participant, session, mark: value, marked} = row.dataset;
      if (value || noteOf(row)) lines.push([participant, session, value, marked, noteOf(row)]);
    }
    return lines.map((cells) => cells.map(clean).join('\t')).join('\n') + '\n';
  };
  section.querySelector('#review-save').addEventListener('click', () => {
    const link = document.createElement('a');
    const file = new Blob([content()], {type: 'text/tab-separated-values'});
    link.href = URL.createObjectURL(file);
    link.download = 'group_review.tsv';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    said.textContent = 'Saved as group_review.tsv.';
  });

  choose(body.rows[0], false);
  count();
})();
