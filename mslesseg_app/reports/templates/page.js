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
  const frame = viewer.querySelector('.viewer-picture');
  let current = null;
  const show = (panel) => {
    current = panel;
    const copy = panel.querySelector('svg').cloneNode(true);
    for (const part of copy.querySelectorAll('[id]')) part.removeAttribute('id');
    frame.className = 'viewer-picture';
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
