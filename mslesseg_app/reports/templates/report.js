(() => {
  // Copying, also where the clipboard interface is closed to local files.
  const copyText = async (source) => {
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
    } catch {
      const holder = source.closest('details');
      if (holder) holder.open = true;
      getSelection().selectAllChildren(source);
      document.execCommand('copy');
    }
  };
  for (const button of document.querySelectorAll('button.copy')) {
    button.hidden = false;
    const words = button.textContent;
    button.addEventListener('click', async () => {
      await copyText(document.getElementById(button.dataset.copy));
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = words; }, 2000);
    });
  }

  // Enlarging a slice; arrows go through the slices of its figure.
  const viewer = document.getElementById('viewer');
  const frame = viewer.querySelector('.viewer-image');
  let current = null;
  const show = (panel) => {
    current = panel;
    const copy = panel.querySelector('svg').cloneNode(true);
    for (const part of copy.querySelectorAll('[id]')) part.removeAttribute('id');
    frame.className = 'viewer-image';
    if (panel.parentNode.classList.contains('msl-flicker')) frame.classList.add('msl-flicker');
    frame.replaceChildren(copy);
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const next = by > 0 ? current.nextElementSibling : current.previousElementSibling;
    if (next) show(next);
  };
  for (const panel of document.querySelectorAll('.panel')) {
    panel.tabIndex = 0;
    panel.setAttribute('role', 'button');
    panel.setAttribute('aria-label', `Enlarge: ${panel.firstElementChild.getAttribute('aria-label')}`);
    panel.addEventListener('click', () => show(panel));
    panel.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return;
      event.preventDefault();
      show(panel);
    });
  }
  viewer.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowRight' || event.key === 'ArrowDown') step(1);
    if (event.key === 'ArrowLeft' || event.key === 'ArrowUp') step(-1);
  });
  viewer.addEventListener('click', (event) => {
    if (event.target === viewer || 'close' in event.target.dataset) viewer.close();
    else if (event.target.dataset.step) step(Number(event.target.dataset.step));
  });
  viewer.addEventListener('close', () => { if (current) current.focus(); });

  // A lesion chosen in its table is marked in all slices.
  const mark = () => {
    for (const old of document.querySelectorAll('.msl-lesion.here')) old.classList.remove('here');
    const chosen = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!chosen || !chosen.classList.contains('msl-lesion')) return;
    const number = CSS.escape(chosen.dataset.lesion);
    for (const part of chosen.closest('.panels').querySelectorAll(`[data-lesion="${number}"]`)) {
      part.classList.add('here');
    }
    chosen.closest('.panel').scrollIntoView({ block: 'center' });
  };
  addEventListener('hashchange', mark);
  mark();
})();
(() => {
  // The review of each exam: Accept, Check or Redo, shared with the group report.
  const words = {
    accept: ['pass', '✓', 'Segmentation: accepted'],
    check: ['check', '!', 'Segmentation: to be checked'],
    redo: ['check', '!', 'Segmentation: to be reprocessed'],
    redone: ['unknown', '?', 'Segmentation: reprocessed, not yet reviewed'],
    exclude: ['fail', '✕', 'Segmentation: excluded'],
    '': ['unknown', '?', 'Segmentation: not yet reviewed'],
  };
  const boxes = [...document.querySelectorAll('.review-state')];
  const kept = mslessegMarks.all();
  const nameOf = (box) => `${box.dataset.participant} ${box.dataset.session}`.trim();
  const show = (box) => {
    const [status, sign, text] = words[box.dataset.mark] || words[''];
    const light = box.querySelector('.light');
    light.className = `light ${status}`;
    light.querySelector('.sign').textContent = sign;
    light.lastChild.textContent = text;
    for (const button of box.querySelectorAll('button[value]')) {
      button.setAttribute('aria-pressed', String(button.value === box.dataset.mark));
    }
  };
  const mark = (box, value) => {
    box.dataset.mark = value;
    box.dataset.marked = mslessegMarks.now();
    const known = mslessegMarks.all()[nameOf(box)];
    const stored = mslessegMarks.keep(nameOf(box), {
      mark: value, marked: box.dataset.marked, note: known ? known.note : box.dataset.note,
    });
    show(box);
    document.getElementById('review-said').textContent = stored
      ? `${nameOf(box)}: ${value || 'mark cleared'}`
      : 'This browser does not store marks: save them before you leave.';
  };
  for (const box of boxes) {
    const known = kept[nameOf(box)];
    if (known && known.marked > box.dataset.marked) {
      box.dataset.mark = known.mark;
      box.dataset.marked = known.marked;
    }
    box.querySelector('.marks').hidden = false;
    for (const button of box.querySelectorAll('button[value]')) {
      button.addEventListener('click', () => mark(box, box.dataset.mark === button.value ? '' : button.value));
    }
    show(box);
  }
  const save = document.getElementById('review-save');
  if (save && boxes.length) {
    save.hidden = false;
    save.addEventListener('click', () => {
      const all = mslessegMarks.all();
      for (const box of boxes) {
        if (box.dataset.mark) all[nameOf(box)] ??= { ...box.dataset };
      }
      const rows = Object.entries(all).sort().filter(([, one]) => one.mark || one.note)
        .map(([name, one]) => [name.split(' ')[0], name.split(' ')[1] || '', one.mark, one.marked, one.note || '']);
      mslessegMarks.save(mslessegMarks.table(rows), 'review.tsv');
    });
  }

  // Previous and next report: in the order of the group report where it was opened before.
  const here = location.pathname.split('/').pop();
  const order = mslessegMarks.order();
  const at = order.indexOf(decodeURIComponent(here));
  const grouped = location.search === '?group' || at >= 0;
  const links = document.querySelectorAll('a[data-go]');
  for (const link of links) {
    const by = { previous: -1, next: 1 }[link.dataset.go];
    if (at >= 0 && by) {
      const target = order[at + by];
      link.hidden = !target;
      if (target) link.setAttribute('href', encodeURIComponent(target));
    }
    if (grouped && link.dataset.go === 'group') link.hidden = false;
    if (grouped && by && link.getAttribute('href')) link.href = `${link.getAttribute('href').split('?')[0]}?group`;
  }
  const go = (what) => {
    const link = document.querySelector(`a[data-go=${what}]:not([hidden])`);
    if (link) link.click();
  };
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest('input, select, textarea, canvas, dialog')) return;
    const key = event.key.toLowerCase();
    const value = { a: 'accept', c: 'check', r: 'redo' }[key];
    if (value && boxes.length) mark(boxes[0], value);
    else if (key === 'j') go('next');
    else if (key === 'k') go('previous');
  });
})();
